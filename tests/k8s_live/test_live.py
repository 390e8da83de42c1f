"""The packaged sites on a real API server: what it takes, what the operator makes, what is said."""

import json
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sonoray.errors import ClusterError, ConfigError, JobFailedError
from sonoray_jobs.cli.usage import accepts
from sonoray_jobs.cluster.kubernetes.live.api_server import RAY_JOB, Resource
from sonoray_jobs.cluster.kubernetes.live.apply_site import apply, diff, rollback
from sonoray_jobs.cluster.kubernetes.live.job_runs import (
    _log_pod,
    find_run,
    follow,
    named_run,
    submit,
)
from sonoray_jobs.cluster.kubernetes.live.remove_parts import remove
from sonoray_jobs.cluster.kubernetes.live.revisions import history
from sonoray_jobs.cluster.kubernetes.live.site_secrets import secrets_of
from sonoray_jobs.cluster.kubernetes.live.site_status import status
from sonoray_jobs.cluster.kubernetes.refusals.problems import find_problems, require_sound
from sonoray_jobs.cluster.kubernetes.render_site import PARTS, Rendered, render
from sonoray_jobs.cluster.kubernetes.site import load_site

CLUSTER = Resource(api_version="ray.io/v1", kind="RayCluster")
POD = Resource(api_version="v1", kind="Pod")
ALL = set(PARTS)
DEADLINE_S = 90.0
ENTRY = "0" * 64
"""Of every Secret; the digest of a key, and a key of pseudonyms."""


def until(told: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if found := told():
            return found
        time.sleep(0.5)
    raise AssertionError(f"{what} did not come within {DEADLINE_S:g} s")


def site_of(folder: Path, name: str, text: str = "") -> Rendered:
    path = folder / "site.toml"
    path.write_text(f'extends = "{name}"\nnamespace = "{folder.name.lower()}"\n{text}')
    return render(*load_site(str(path)))


def standing(rendered: Rendered) -> list[Any]:
    return [each for part in PARTS for each in rendered.parts.get(part, [])]


def make_secrets(namespace: str, objects: list[Any]) -> None:
    run = lambda *words: subprocess.run(["kubectl", *words], check=True, capture_output=True)  # noqa: E731
    run("create", "namespace", namespace)
    for name, keys in secrets_of(objects).items():
        given = [f"--from-literal={key}={ENTRY}" for key in keys or {"key"}]
        run("-n", namespace, "create", "secret", "generic", name, *given)


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A folder whose name is that of the test's namespace."""
    return tmp_path_factory.mktemp("t", numbered=True)


@pytest.mark.parametrize("name", ["dev-cpu", "gpu-prod"])
def test_a_site_and_its_jobs_apply_strictly_and_a_second_time_changes_nothing(
    api: Any, folder: Path, name: str
) -> None:
    rendered = site_of(folder, name)
    objects = standing(rendered)
    assert find_problems(rendered.objects, accepts) == []
    with pytest.raises(ClusterError, match="create namespace"):
        apply(api, rendered.site, objects, parts=ALL, wait_s=0)
    make_secrets(rendered.site.namespace, rendered.objects)
    done = apply(api, rendered.site, objects, parts=ALL, wait_s=0)
    # the namespace was there, and another tenant may have brought the priorities
    assert len(done.created) >= len(objects) - 3
    assert done.revision == 1
    for job in rendered.jobs.values():
        api.apply(job, dry_run=True)
    assert diff(api, rendered.site, objects, ALL).lines() == ["nothing would change"]
    again = apply(api, rendered.site, objects, parts=ALL, wait_s=0)
    assert (again.created, again.changed, again.revision) == ((), (), 1)
    assert again.unchanged == len(objects)


def test_what_a_cluster_lacks_is_said_before_anything_is_applied(api: Any, folder: Path) -> None:
    rendered = site_of(folder, "gpu-prod")
    namespace = rendered.site.namespace
    subprocess.run(["kubectl", "create", "namespace", namespace], check=True, capture_output=True)
    with pytest.raises(ClusterError, match="has no platform; run: sonoray k8s apply platform"):
        apply(api, rendered.site, rendered.parts["service"], parts=ALL, wait_s=0)
    with pytest.raises(ClusterError, match=r"^nothing was applied: Secret/\S+ is missing"):
        apply(api, rendered.site, standing(rendered), parts=ALL, wait_s=0)
    assert (
        api.get(Resource(api_version="ray.io/v1", kind="RayService"), namespace, "llava-ultra")
        is None
    )


def test_a_misspelt_field_is_refused_by_the_server_before_anything_is_applied(
    api: Any, folder: Path
) -> None:
    rendered = site_of(folder, "dev-cpu")
    objects = rendered.parts["platform"]
    objects[-2]["spec"]["replcas"] = 2
    with pytest.raises(ClusterError, match=r"nothing was applied: .*replcas"):
        apply(api, rendered.site, objects, parts=ALL, wait_s=0)
    got = subprocess.run(
        ["kubectl", "get", "namespace", rendered.site.namespace], capture_output=True, check=False
    )
    assert got.returncode != 0


def test_a_client_that_is_taken_out_finds_its_way_closed(api: Any, folder: Path) -> None:
    policy = Resource(api_version="networking.k8s.io/v1", kind="NetworkPolicy")
    clients = '[[network.clients]]\nnamespace = {name = "reporting"}\npods = {app = "client"}\n'
    opened, closed = site_of(folder, "dev-cpu", clients), site_of(folder, "dev-cpu")
    place = (policy, opened.site.namespace, "service-clients")
    apply(api, opened.site, opened.parts["platform"], parts={"platform"}, wait_s=0)
    assert api.get(*place)
    told = diff(api, closed.site, closed.parts["platform"], {"platform"}).lines()
    assert told == ["- NetworkPolicy/service-clients"]
    done = apply(api, closed.site, closed.parts["platform"], parts={"platform"}, wait_s=0)
    assert (done.created, done.changed, done.deleted) == (
        (),
        (),
        ("NetworkPolicy/service-clients",),
    )
    assert api.get(*place) is None
    written = closed.parts["platform"]
    assert rollback(api, closed.site, 1, written=written, wait_s=0).created == done.deleted
    assert rollback(api, closed.site, 2, written=written, wait_s=0).deleted == done.deleted


def test_a_key_in_place_of_its_digest_is_refused_before_anything_is_applied(
    api: Any, folder: Path
) -> None:
    rendered = site_of(folder, "dev-cpu")
    namespace = rendered.site.namespace
    make_secrets(namespace, rendered.objects)
    change = {"stringData": {"ward-4": "a raw key"}, "data": {"key": None}}
    api.merge(Resource(api_version="v1", kind="Secret"), namespace, "sonoray-api-keys", change)
    with pytest.raises(ClusterError, match="entry ward-4, line 1: no sha256") as refused:
        apply(api, rendered.site, standing(rendered), parts=ALL, wait_s=0)
    assert "raw key" not in str(refused.value)
    assert api.items(Resource(api_version="apps/v1", kind="Deployment"), namespace) == []


def test_the_operator_makes_the_pods_that_were_asked_for(
    api: Any, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rendered = site_of(folder, "dev-cpu", "[groups.workers]\nmin = 1\n")
    namespace = rendered.site.namespace
    objects = [*rendered.parts["platform"], *rendered.parts["cluster"]]
    apply(api, rendered.site, objects, parts=ALL, wait_s=0)
    api.create(node("cpu-1", cpu="64", memory="256Gi"))

    def pods() -> Any:
        return {
            each["metadata"]["labels"]["ray.io/node-type"]: each
            for each in api.items(POD, namespace, labelSelector="ray.io/cluster=sonoray")
        }

    made = until(lambda: pods() if len(pods()) == 2 else None, "head and worker")
    head, worker = made["head"]["spec"], made["worker"]["spec"]
    assert head["serviceAccountName"] == "sonoray-autoscaler"
    assert [each["name"] for each in head["containers"]] == ["ray-head", "autoscaler"]
    mounted = {
        container["name"]: [mount["mountPath"] for mount in container["volumeMounts"]]
        for container in head["containers"]
    }
    token = "/var/run/secrets/kubernetes.io/serviceaccount"
    assert token in mounted["autoscaler"]
    assert token not in mounted["ray-head"]
    assert head["containers"][0]["args"][0].startswith("ulimit -n 65536; eval")
    env = {each["name"]: each.get("value") for each in head["containers"][0]["env"]}
    assert env["KUBERAY_GEN_RAY_START_CMD"].startswith("ray start --head")
    assert worker["initContainers"][0]["name"] == "wait-for-name"
    assert worker["containers"][0]["resources"]["limits"]["cpu"] == "2"
    known = {each["name"] for each in worker["initContainers"][0]["env"]}
    assert "FQ_RAY_IP" in known
    set_by_kuberay = {each["name"]: each.get("value") for each in worker["containers"][0]["env"]}
    assert "--resources='{\"driver\": 8}'" in set_by_kuberay["KUBERAY_GEN_RAY_START_CMD"]

    # an image change replaces the Pods
    before = {name: each["metadata"]["uid"] for name, each in made.items()}
    newer = site_of(
        folder, "dev-cpu", '[groups.workers]\nmin = 1\n[image]\ntag = "0.1.1-ray2.60.0"\n'
    )
    done = apply(api, newer.site, newer.parts["cluster"], parts={"cluster"}, wait_s=0)
    assert done.changed == ("RayCluster/sonoray",)
    assert done.revision == 2

    def replaced() -> bool:
        now = pods()
        return len(now) == 2 and all(
            each["metadata"]["uid"] != before[name]
            and each["spec"]["containers"][0]["image"].endswith("0.1.1-ray2.60.0")
            for name, each in now.items()
        )

    until(replaced, "Pods of the new image")

    # and the way back
    written = [*newer.parts["platform"], *newer.parts["cluster"]]
    with caplog.at_level("WARNING"):
        back = rollback(api, newer.site, None, written=written, wait_s=0)
    assert back.revision == 3
    assert "the site file says otherwise of" in caplog.text
    assert "RayCluster/sonoray" in caplog.text
    told = history(api, newer.site).revisions
    assert [(each.number, each.image) for each in told] == [
        (1, rendered.site.image_name),
        (2, newer.site.image_name),
        (3, rendered.site.image_name),
    ]
    live = api.get(CLUSTER, namespace, "sonoray")
    [image] = {
        each["image"] for each in live["spec"]["headGroupSpec"]["template"]["spec"]["containers"]
    }
    assert image == rendered.site.image_name
    whole = [*rendered.parts["platform"], *rendered.parts["cluster"]]
    removed = remove(api, whole, volumes=False, wait_s=DEADLINE_S)
    assert removed.names[:2] == ("RayCluster/sonoray", "Deployment/mlflow")
    assert api.items(POD, namespace) == []
    assert {"Namespace/" + namespace, "PersistentVolumeClaim/mlflow"} <= set(removed.kept)


def test_an_apply_leaves_the_autoscaler_its_workers(api: Any, folder: Path) -> None:
    rendered = site_of(folder, "dev-cpu")
    objects = [*rendered.parts["platform"], *rendered.parts["cluster"]]
    apply(api, rendered.site, objects, parts=ALL, wait_s=0)
    namespace = rendered.site.namespace
    live = api.get(CLUSTER, namespace, "sonoray")
    groups = live["spec"]["workerGroupSpecs"]
    groups[0]["replicas"] = 2  # as the autoscaler does
    api.merge(CLUSTER, namespace, "sonoray", {"spec": {"workerGroupSpecs": groups}})
    done = apply(api, rendered.site, objects, parts=ALL, wait_s=0)
    assert done.changed == ()
    live = api.get(CLUSTER, namespace, "sonoray")
    assert live["spec"]["workerGroupSpecs"][0]["replicas"] == 2


def test_a_job_is_started_found_and_ends_the_wait_when_it_fails(
    api: Any, plane: Any, folder: Path
) -> None:
    rendered = site_of(folder, "dev-cpu")
    namespace = rendered.site.namespace
    apply(api, rendered.site, rendered.parts["platform"], parts=ALL, wait_s=0)
    make_volume(namespace, "ReadWriteOnce")
    api.create(node("cpu-3", cpu="64", memory="256Gi"))
    plane.container_log.write_text(logged(range(3)))
    job = named_run(rendered.jobs["train"], ["--set", "train.num_workers=1"])
    run = submit(api, job, [], wait=False, write=print)
    assert find_run(api, namespace, "train").name == run.name
    spec = api.get(RAY_JOB, namespace, run.name)["spec"]
    assert spec["entrypoint"].endswith("--set train.num_workers=1")
    until(lambda: _log_pod(api, run), "the submitter's Pod")

    written: list[str] = []
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(follow, api, run, written.append)
        until(lambda: len(written) == 3, "the first lines")
        with plane.container_log.open("a") as log:
            log.write(logged(range(3, 6)))
        until(lambda: len(written) == 6, "more lines")
        # what the operator writes when the command ends with 2
        failed = {
            "status": {
                "jobDeploymentStatus": "Failed",
                "jobStatus": "FAILED",
                "reason": "AppFailed",
                "message": "Job entrypoint command failed with exit code 2, last logs: error: x",
            }
        }
        path = RAY_JOB.path(namespace, run.name, "status")
        api._json("PATCH", path, {}, body=failed, content="application/merge-patch+json")
        began = time.monotonic()
        with pytest.raises(JobFailedError, match="exit code 2") as ended:
            following.result(timeout=60)
    assert ended.value.exit_code == 2
    assert time.monotonic() - began < 30
    assert written == [f"line {number}\n" for number in range(6)]
    with pytest.raises(ClusterError, match="no job 'nothing' here"):
        find_run(api, namespace, "nothing")


def test_a_training_takes_the_gpu_nodes_and_its_data_workers_do_not(api: Any, folder: Path) -> None:
    rendered = site_of(folder, "gpu-prod")
    namespace = rendered.site.namespace
    make_secrets(namespace, rendered.objects)
    apply(api, rendered.site, rendered.parts["platform"], parts=ALL, wait_s=0)
    product = {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"}
    for number in range(2):
        made = node(f"gpu-{number}", cpu="32", memory="128Gi", gpus="1")
        made["metadata"]["labels"] = product
        made["spec"] = {"taints": [{"key": "nvidia.com/gpu", "value": "x", "effect": "NoSchedule"}]}
        api.create(made)
    api.create(node("cpu-2", cpu="64", memory="256Gi"))
    run = submit(api, named_run(rendered.jobs["train"], []), [], wait=False, write=print)

    make_volume(namespace, "ReadWriteMany", rendered.site.storage.workspace_class)

    def places() -> Any:
        live = api.get(RAY_JOB, namespace, run.name)
        name = live.get("status", {}).get("rayClusterName", "none")
        pods = api.items(POD, namespace, labelSelector=f"ray.io/cluster={name}")
        placed = [
            (each["metadata"]["labels"].get("ray.io/group"), each["spec"].get("nodeName", ""))
            for each in pods
        ]
        return placed if len(placed) == 4 and all(name for _, name in placed) else None

    placed = until(places, "head and three workers on nodes")
    by_group: dict[str, set[str]] = {}
    for group, name in placed:
        by_group.setdefault(group, set()).add(name)
    assert by_group["train"] == {"gpu-0", "gpu-1"}
    assert not by_group["data"] & by_group["train"]
    assert not by_group["headgroup"] & by_group["train"]


def test_status_of_a_thousand_nodes_takes_as_many_requests_as_of_one(
    api: Any, folder: Path, record_property: Any
) -> None:
    rendered = site_of(folder, "dev-cpu", '[quota]\npods = 5000\ncpu = "9000"\nmemory = "90Ti"\n')
    namespace = rendered.site.namespace
    apply(api, rendered.site, rendered.parts["platform"], parts=ALL, wait_s=0)
    before = status(api, namespace).num_requests
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: api.create(node(f"n-{number}")), range(1000)))
    until(lambda: sum(status(api, namespace).nodes.values()) >= 1000, "a thousand nodes")
    began = time.monotonic()
    seen = status(api, namespace)
    took_s = time.monotonic() - began
    record_property("status_s", round(took_s, 3))
    assert seen.num_requests == before
    assert took_s < 3.0


def test_manifests_of_others_are_checked_like_ours(folder: Path) -> None:
    rendered = site_of(folder, "dev-cpu")
    [cluster] = rendered.parts["cluster"]
    cluster["spec"]["workerGroupSpecs"][0]["minReplicas"] = 9
    with pytest.raises(ConfigError, match="minReplicas 9"):
        require_sound(rendered.objects, accepts)


def node(name: str, cpu: str = "16", memory: str = "64Gi", gpus: str = "0") -> dict[str, Any]:
    room = {
        "cpu": cpu,
        "memory": memory,
        "pods": "110",
        "ephemeral-storage": "900Gi",
        "nvidia.com/gpu": gpus,
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "annotations": {"kwok.x-k8s.io/node": "fake"}},
        "status": {"capacity": room, "allocatable": room},
    }


def make_volume(namespace: str, mode: str, storage_class: str = "") -> None:
    """A volume for the workspace of a namespace: nobody provisions any here."""
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": namespace},
        "spec": {
            "capacity": {"storage": "2Ti"},
            "accessModes": [mode],
            "storageClassName": storage_class,
            "claimRef": {"namespace": namespace, "name": "sonoray-workspace"},
            "hostPath": {"path": "/tmp"},
        },
    }
    subprocess.run(
        ["kubectl", "apply", "--server-side", "-f", "-"],
        input=json.dumps(volume),
        text=True,
        check=True,
        capture_output=True,
    )


def logged(numbers: range) -> str:
    """Lines of a container's log as a container runtime writes them."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    return "".join(f"{stamp}.{number:09d}Z stdout F line {number}\n" for number in numbers)
