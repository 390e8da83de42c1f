"""What runs Pods goes first, and what they need stays until the last of them has ended."""

from typing import Any

import pytest

from sonoray.errors import ClusterError
from sonoray_jobs.cluster.kubernetes.live import remove_parts
from sonoray_jobs.cluster.kubernetes.live.api_server import Resource
from sonoray_jobs.cluster.kubernetes.live.remove_parts import remove


def made(kind: str, name: str, owner: str = "", **labels: str) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "namespace": "n", "uid": f"uid-{name}"}
    metadata["labels"] = {"app.kubernetes.io/part-of": "sonoray", **labels}
    if owner:
        metadata["ownerReferences"] = [{"uid": f"uid-{owner}"}]
    version = {"RayService": "ray.io/v1", "RayCluster": "ray.io/v1", "RayJob": "ray.io/v1"}
    version["NetworkPolicy"] = "networking.k8s.io/v1"
    return {
        "apiVersion": version.get(kind, "v1"),
        "kind": kind,
        "metadata": metadata,
        "status": {"phase": "Running"},
    }


class Lingering:
    """A cluster where Pods end some looks after their owner is gone."""

    def __init__(self, objects: list[dict[str, Any]], looks: int) -> None:
        self.objects, self.looks, self.log = objects, looks, []

    def get(self, resource: Resource, _namespace: str, name: str) -> dict[str, Any] | None:
        found = [
            each
            for each in self.objects
            if each["kind"] == resource.kind and each["metadata"]["name"] == name
        ]
        return found[0] if found else None

    def items(self, resource: Resource, _namespace: str, **_: str) -> list[dict[str, Any]]:
        found = [each for each in self.objects if each["kind"] == resource.kind]
        if resource.kind == "Pod" and self.log:
            self.looks -= 1
            if self.looks == 1:  # what an autoscaler had asked for just before
                self.objects.append(made("Pod", "late", "cluster"))
            if self.looks <= 0:
                self.objects = [each for each in self.objects if each["kind"] != "Pod"]
        return found

    def delete(self, _resource: Resource, _namespace: str, name: str) -> bool:
        self.log.append((name, sum(each["kind"] == "Pod" for each in self.objects)))
        gone = {name, {"service": "cluster"}.get(name)}
        self.objects = [each for each in self.objects if each["metadata"]["name"] not in gone]
        return True


POLICY, SERVICE = made("NetworkPolicy", "policy"), made("RayService", "service")
CLUSTER = made("RayCluster", "cluster", "service")
POD = made("Pod", "pod", "cluster", **{"ray.io/cluster": "cluster", "sonoray.io/part": "service"})
CLAIM = made("PersistentVolumeClaim", "claim")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remove_parts, "POLL_S", 0.01)


def test_policies_hold_until_the_last_pod_has_ended():
    api = Lingering([POLICY, CLAIM, SERVICE, CLUSTER, POD], looks=4)
    done = remove(api, [POLICY, CLAIM, SERVICE], volumes=False, wait_s=5)  # type: ignore[arg-type]
    assert api.log == [("service", 1), ("policy", 0)]
    assert done.names == ("RayService/service", "NetworkPolicy/policy")
    assert done.kept == ("PersistentVolumeClaim/claim",)


def test_what_does_not_end_is_named_and_the_rest_is_left():
    api = Lingering([POLICY, SERVICE, CLUSTER, POD], looks=10**9)
    with pytest.raises(ClusterError, match=r"Pod/pod is still there after 0.1 s; kubectl describe"):
        remove(api, [POLICY, SERVICE], volumes=False, wait_s=0.1)  # type: ignore[arg-type]
    assert api.log == [("service", 1)]


def test_a_platform_that_others_need_is_not_taken_away():
    job = made("RayJob", "train-1")
    job["status"] = {"rayClusterName": "train-1-x"}
    head = made("Pod", "head", "train-1-x", **{"ray.io/cluster": "train-1-x"})
    printer = made("Pod", "printer", **{"batch.kubernetes.io/job-name": "train-1"})
    nightly = made("Pod", "nightly", **{"batch.kubernetes.io/job-name": "scheduled-steps-29"})
    ended = made("Pod", "ended", **{"sonoray.io/part": "cluster"})
    ended["status"]["phase"] = "Succeeded"
    there = [POLICY, SERVICE, CLUSTER, POD, job, head, printer, nightly, ended]
    api = Lingering(list(there), looks=3)
    with pytest.raises(
        ClusterError, match=r"delete them too: sonoray k8s delete schedule train-1$"
    ):
        remove(api, [POLICY, SERVICE], volumes=False, wait_s=5)  # type: ignore[arg-type]
    with pytest.raises(ClusterError, match=r"4 Pods .* delete schedule service train-1$"):
        remove(api, [POLICY], volumes=False, wait_s=5)  # type: ignore[arg-type]
    assert api.log == []
    assert remove(api, [SERVICE], volumes=False, wait_s=5).names  # type: ignore[arg-type]
