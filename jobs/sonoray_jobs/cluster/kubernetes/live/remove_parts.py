"""Take parts of a site, or a job, off the cluster; volumes and the namespace only when asked.

What runs Pods goes first, and the rest waits until they have ended: network policies hold to the
last of them, and a service account, a quota or MLflow is there as long as somebody needs it.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sonoray.errors import ClusterError
from sonoray_jobs.cluster.kubernetes.live.api_server import (
    POD,
    RAY_JOB,
    Api,
    Resource,
    resource_of,
)
from sonoray_jobs.cluster.kubernetes.manifests.naming import PART_LABEL, SCHEDULED, Object
from sonoray_jobs.cluster.kubernetes.refusals.walk import RUN_PODS, entries, inside
from sonoray_jobs.cluster.kubernetes.yaml_files import name_of, namespace_of

logger = logging.getLogger(__name__)

KEPT = {"Namespace", "PersistentVolumeClaim", "PriorityClass"}
"""Kinds that stay: data, and what other tenants share."""
POLL_S = 1.0
_BELOW = (
    Resource(api_version="apps/v1", kind="ReplicaSet"),
    Resource(api_version="ray.io/v1", kind="RayCluster"),
    Resource(api_version="batch/v1", kind="Job"),
    POD,
)
"""What controllers make for an object that runs Pods, owners before what they own."""
_WHY = {
    "Pod": "kubectl describe pod tells why: mostly its node does not answer",
    "PersistentVolumeClaim": "a Pod still mounts it; see: sonoray k8s status",
}
_FINALIZER = (
    "where the operator is gone, nobody takes its finalizer off: install it again, or remove the "
    "finalizer"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Removed:
    """What was deleted."""

    names: tuple[str, ...]
    kept: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """For a person."""
        told = [f"deleted {name}" for name in self.names] or ["nothing was there"]
        return [*told, *(f"kept {name}" for name in self.kept)]

    def to_json(self) -> dict[str, Any]:
        """For a script."""
        return asdict(self)


def remove(api: Api, objects: Sequence[Object], *, volumes: bool, wait_s: float) -> Removed:
    """Delete objects, those with Pods first and the last applied first, and wait until all is gone.

    Ray's objects have finalizers that only the operator takes off; it must still run.

    Args:
        api: the cluster.
        objects: what to delete.
        volumes: whether claims go too, with the data.
        wait_s: time for all to be gone.

    Raises:
        ClusterError: other Pods need what is to be deleted, and nothing was deleted; or something
            is still there after that time, and what comes after it was left.
    """
    kept = KEPT - ({"PersistentVolumeClaim"} if volumes else set())
    with_pods = [made for made in reversed(objects) if made["kind"] in RUN_PODS]
    others = [made for made in reversed(objects) if made["kind"] not in {*RUN_PODS, *kept}]
    workloads = [live for made in with_pods if (live := _live(api, made))]
    rest = [live for made in others if (live := _live(api, made))]
    if any(each["kind"] == "NetworkPolicy" for each in rest):
        _require_no_others(api, workloads, namespace_of(rest[0]))
    deadline = time.monotonic() + wait_s
    for phase in (workloads, rest):
        known: set[str] = set()
        _below(api, phase, known)
        for live in phase:
            api.delete(resource_of(live), namespace_of(live), live["metadata"]["name"])
        _wait_gone(api, phase, known, deadline, wait_s)
    return Removed(
        names=tuple(map(name_of, [*workloads, *rest])),
        kept=tuple(name_of(made) for made in objects if made["kind"] in kept),
    )


def _require_no_others(api: Api, workloads: Sequence[Object], namespace: str) -> None:
    """Refuse to take policies and accounts from Pods that stay."""
    own = {each["metadata"]["uid"] for each in _below(api, workloads, set())}
    pods = api.items(POD, namespace, labelSelector="app.kubernetes.io/part-of=sonoray")
    others = [
        each
        for each in pods
        if each["metadata"]["uid"] not in own
        and inside(each, "status").get("phase") in ("Pending", "Running")
    ]
    if not others:
        return
    jobs = {
        each["metadata"]["name"]: inside(each, "status").get("rayClusterName")
        for each in api.items(RAY_JOB, namespace)
    }
    names = sorted({_what_to_delete(each, jobs) for each in others})
    raise ClusterError(
        f"nothing was deleted: {len(others)} Pods still need the platform, such as "
        f"{others[0]['metadata']['name']}; delete them too: sonoray k8s delete {' '.join(names)}"
    )


def _what_to_delete(pod: Object, jobs: Mapping[str, str]) -> str:
    """The part or job that a Pod belongs to; `jobs` are RayJobs and the names of their clusters."""
    labels = inside(pod, "metadata", "labels")
    made_by = str(labels.get("batch.kubernetes.io/job-name", ""))
    if made_by.startswith(SCHEDULED):
        return "schedule"
    for job, cluster in jobs.items():
        if made_by == job or labels.get("ray.io/cluster") == cluster:
            return job
    return str(labels.get(PART_LABEL))


def _wait_gone(
    api: Api, phase: Sequence[Object], known: set[str], deadline: float, wait_s: float
) -> None:
    """Wait until objects are gone and with them all that controllers made for them."""
    said = ""
    while left := [*(each for each in phase if _is_there(api, each)), *_below(api, phase, known)]:
        if time.monotonic() > deadline:
            kind = left[-1]["kind"]
            raise ClusterError(
                f"{name_of(left[-1])} is still there after {wait_s:g} s; "
                f"{_WHY.get(kind, _FINALIZER)}; what comes after it was left: delete again"
            )
        now = f"{len(left)} objects are still there, such as {name_of(left[-1])}"
        if now != said:
            logger.info("%s", now)
            said = now
        time.sleep(POLL_S)


def _below(api: Api, owners: Sequence[Object], known: set[str]) -> list[Object]:
    """What is there of what controllers made for objects that run Pods, and for that in turn.

    Args:
        api: the cluster.
        owners: the objects.
        known: uids of owners that were seen; those of this look are added, since an owner may go
            before what it owns.
    """
    known |= {str(each["metadata"]["uid"]) for each in owners if each["kind"] in RUN_PODS}
    found: list[Object] = []
    for resource in _BELOW if known else ():
        for each in api.items(resource, namespace_of(owners[0])):
            above = entries(each["metadata"].get("ownerReferences"))
            if any(owner.get("uid") in known for owner in above):
                known.add(str(each["metadata"]["uid"]))
                # the items of a list do not name their kind
                found.append({**each, "apiVersion": resource.api_version, "kind": resource.kind})
    return found


def _live(api: Api, made: Object) -> Object | None:
    return api.get(resource_of(made), namespace_of(made), made["metadata"]["name"])


def _is_there(api: Api, known: Object) -> bool:
    """Whether this very object is there, not another one of its name."""
    live = _live(api, known)
    return live is not None and live["metadata"]["uid"] == known["metadata"]["uid"]
