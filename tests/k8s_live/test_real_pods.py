"""The site `dev-cpu` from nothing to an answered question, with Pods as real processes.

The road at its smallest, by `sonoray k8s` alone; then what a client sees when a key comes, a head
dies, a job fails. Policies are nftables rules, DNS and Services those of the node. Each test goes
on from where the one before it ended. SONORAY_TEST_PODS=1 turns them on, since they take long.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from control_plane import HERE
from real_cluster import OPERATOR_NAMESPACE, REDIS, RealCluster, unable
from resource_definitions import SCHEMAS, definitions, wait_established

from sonoray_jobs.road.config import RoadConfig

NAMESPACE, CLIENTS = "ward", "clients"
STEPS = ("ingest", "bootstrap", "embed", "train", "evaluate", "export")
SERVICE = f"http://llava-ultra-serve-svc.{NAMESPACE}.svc:8000"
QUESTION = "病灶是良性还是恶性？"
KEY, SECOND_KEY = "key-of-the-ward-0123456789", "key-of-the-clinic-9876543210"
REDIS_PASSWORD = "of-the-control-store"
HEAD_AWAY_S, WORKER_AWAY_S, MISTAKE_S = 5, 180, 30
"""What a client may see of a lost head and of the only worker; what may lie between a job's failure
and its status."""
SITE = f"""
extends = "dev-cpu"
namespace = "{NAMESPACE}"
road = "tiny.toml"

[[network.clients]]
namespace = {{ "kubernetes.io/metadata.name" = "{CLIENTS}" }}
pods = {{ app = "client" }}

[keep]
succeeded_s = 0

[service.redis]
address = "{REDIS[0]}:{REDIS[1]}"
cidrs = ["{REDIS[0]}/32"]
password_secret = "sonoray-redis"
"""


@dataclass
class Ward:
    """The cluster, the site, and what was measured of it."""

    cluster: RealCluster
    site: Path
    took_s: dict[str, float]

    def sonoray(self, *words: str, code: int = 0) -> str:
        """Run `sonoray k8s` on the site; what it printed, log and result."""
        began = time.monotonic()
        command, *rest = words
        done = self.cluster.run(
            *(sys.executable, "-m", "sonoray_jobs.cli", "k8s", command, *rest),
            env={"SONORAY_SITE": str(self.site)},
        )
        self.took_s[" ".join(words[:2])] = round(time.monotonic() - began, 1)
        text = done.stdout + done.stderr
        assert done.returncode == code, f"{words}: {done.returncode}\n{text[-4000:]}"
        return text

    def pod(self, name: str, namespace: str, labels: dict[str, str], *command: str) -> None:
        """Start a Pod of somebody else."""
        container = {
            "name": "main",
            "image": "client",
            "command": list(command),
            "volumeMounts": [{"name": "given", "mountPath": "/given", "readOnly": True}],
        }
        self.cluster.apply(
            [
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {"name": name, "namespace": namespace, "labels": labels},
                    "spec": {
                        "restartPolicy": "Never",
                        "containers": [container],
                        "volumes": [{"name": "given", "hostPath": {"path": str(self.given)}}],
                    },
                }
            ]
        )

    def ran(self, name: str, namespace: str, within_s: float = 600) -> tuple[str, str]:
        """Wait for a Pod's end: its phase and log."""

        def ended() -> str:
            phase = self.cluster.read("pod", "-n", namespace, name)["status"].get("phase")
            return str(phase) if phase in ("Succeeded", "Failed") else ""

        phase = until(ended, f"the end of {name}", within_s)
        return phase, self.cluster.kubectl("logs", "-n", namespace, name)

    def give_key(self, name: str, key: str) -> None:
        """A file that its reader alone may open, as `sonoray ask` wants it."""
        path = self.given / name
        path.touch(mode=0o600)
        path.write_text(key)

    @property
    def given(self) -> Path:
        """What others' Pods see at /given."""
        return self.cluster.folder / "given"

    @property
    def examples(self) -> Path:
        """Phantom studies among it."""
        return self.given / "examples"

    def pods(self, labels: str) -> list[Any]:
        """Pods of the site."""
        return list(self.cluster.read("pods", "-n", NAMESPACE, "-l", labels)["items"])


def until(told: Callable[[], Any], what: str, within_s: float) -> Any:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if found := told():
            return found
        time.sleep(0.5)
    raise AssertionError(f"{what} did not come within {within_s:g} s")


@pytest.fixture(scope="module")
def ward(
    tmp_path_factory: pytest.TempPathFactory, tiny_road: RoadConfig, record_testsuite_property: Any
) -> Iterator[Ward]:
    """A cluster with the operator, and the site file of a ward; nothing of the site is there."""
    if not os.environ.get("SONORAY_TEST_PODS"):
        pytest.skip("a road on real Pods takes long; set SONORAY_TEST_PODS=1")
    if reason := unable():
        pytest.skip(reason)
    if not SCHEMAS.is_dir():
        pytest.skip(f"no resource definitions at {SCHEMAS}; set SONORAY_SHARED_DATA")
    folder = tmp_path_factory.mktemp("ward")
    cluster = RealCluster(folder)
    made = Ward(cluster=cluster, site=folder / "ward.toml", took_s={})
    try:
        cluster.start()
        cluster.start_redis(REDIS_PASSWORD)
        for each in definitions():
            cluster.apply([each])
        wait_established(lambda *words: cluster.run("kubectl", *words))
        cluster.start_operator()
        made.site.write_text(SITE, encoding="utf-8")
        road = tiny_road.model_dump(mode="json", exclude_unset=True)
        road["train"] |= {"num_workers": 1, "cpus_per_worker": 0.5, "site_cue": False}
        road["evaluate"] |= {"actors": 1, "actor_cpus": 1}
        text = "".join(f"{key} = {toml(value)}\n" for key, value in road.items())
        (folder / "tiny.toml").write_text(f'dataset = "phantom"\n{text}', encoding="utf-8")
        made.given.mkdir()
        made.give_key("key", KEY)
        shutil.copy(HERE / "client_loop.py", made.given)
        subprocess.run(
            [*(sys.executable, "-m", "sonoray_jobs.cli", "phantom"), "--out", str(made.examples)],
            check=True,
            capture_output=True,
        )
        cluster.kubectl("create", "namespace", CLIENTS)
        cluster.kubectl(
            *("wait", "--for=condition=Available", "deployment/kuberay-operator"),
            *("-n", OPERATOR_NAMESPACE, "--timeout=300s"),
        )
        yield made
        for name, seconds in made.took_s.items():
            record_testsuite_property(name, seconds)
    finally:
        cluster.stop()


def toml(value: Any) -> str:
    """A value as TOML; a table in one line, without what is None."""
    if isinstance(value, dict):
        inner = ", ".join(
            f"{key} = {toml(each)}" for key, each in value.items() if each is not None
        )
        return f"{{ {inner} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return json.dumps(value)


def secret(name: str, values: dict[str, str]) -> dict[str, Any]:
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": values}


def keys(*names: str) -> dict[str, Any]:
    """The Secret with these keys' digests."""
    digests = {f"k{n}": hashlib.sha256(key.encode()).hexdigest() for n, key in enumerate(names)}
    return secret("sonoray-api-keys", digests)


def test_the_platform_comes_up(ward: Ward) -> None:
    told = ward.sonoray("apply", "platform")
    assert "ready after" in told
    [mlflow] = ward.pods("app.kubernetes.io/name=mlflow")
    assert mlflow["status"]["phase"] == "Running"


@pytest.mark.parametrize("step", STEPS)
def test_a_step_runs_on_a_cluster_of_its_own_and_ends_with_its_status(
    ward: Ward, step: str
) -> None:
    ward.sonoray("submit", step)
    run = ward.cluster.read("rayjobs", "-n", NAMESPACE, "-l", f"sonoray.io/step={step}")
    [job] = run["items"]
    assert job["status"]["jobStatus"] == "SUCCEEDED"


def test_a_users_mistake_is_tried_once_and_its_status_and_line_come_at_once(
    ward: Ward, record_property: Any
) -> None:
    told = ward.sonoray("submit", "train", "--", "--set", "train.resume=nothing", code=2)
    ended = datetime.now(UTC)
    assert "nothing" in told
    jobs = ward.cluster.read("rayjobs", "-n", NAMESPACE, "-l", "sonoray.io/step=train")["items"]
    [failed] = [each for each in jobs if each["status"]["jobStatus"] == "FAILED"]
    assert failed["status"].get("failed", 0) <= 1
    waited_s = (ended - datetime.fromisoformat(failed["status"]["endTime"])).total_seconds()
    record_property("mistake_told_after_s", round(waited_s, 1))
    assert waited_s <= MISTAKE_S


def test_the_service_answers_a_question_to_a_client_with_a_key(ward: Ward) -> None:
    ward.cluster.apply([keys(KEY), secret("sonoray-redis", {"password": REDIS_PASSWORD})])
    ward.sonoray("apply", "service")
    images = sorted(ward.examples.glob("patient-000003-study-0/image-*.png"))
    shown = [f"/given/{path.relative_to(ward.given)}" for path in images]
    ask = ["sonoray", "ask", *shown, "--question", QUESTION, "--url", SERVICE]
    ward.pod("asks", CLIENTS, {"app": "client"}, *ask, "--api-key-file", "/given/key")
    phase, log = ward.ran("asks", CLIENTS)
    assert phase == "Succeeded", log
    ward.pod("keyless", CLIENTS, {"app": "client"}, *ask)
    phase, log = ward.ran("keyless", CLIENTS)
    assert phase == "Failed"
    assert "401" in log or "key" in log
    budget = ward.cluster.read("poddisruptionbudget", "-n", NAMESPACE, "llava-ultra")
    assert budget["status"]["disruptionsAllowed"] == 1  # a node may be drained


def test_an_outsider_reaches_nothing(ward: Ward) -> None:
    ray = ward.pods("ray.io/is-ray-node=yes")
    assert ray
    tries = [
        f"timeout 3 bash -c '</dev/tcp/{each['status']['podIP']}/{port}' && echo {port} open"
        for each in ray
        for port in (6379, 8265, 8000, 8080)
        if each["status"].get("podIP")
    ]
    ward.pod("outsider", CLIENTS, {"app": "other"}, "bash", "-c", f"{'; '.join(tries)}; echo done")
    _, log = ward.ran("outsider", CLIENTS)
    assert [line for line in log.splitlines() if line.endswith("open")] == []
    assert log.rstrip().endswith("done")


def loop(ward: Ward, name: str, seconds: int) -> None:
    """Start a client that asks five times a second."""
    words = ["python", "/given/client_loop.py", f"{SERVICE}/v1/models", "/given/key", "5"]
    ward.pod(name, CLIENTS, {"app": "client"}, *words, str(seconds))


def failures(ward: Ward, name: str, within_s: float) -> list[dict[str, float]]:
    """The requests of a client that got no 200."""
    phase, log = ward.ran(name, CLIENTS, within_s)
    answers = [json.loads(line) for line in log.splitlines()]
    assert phase == "Succeeded"
    assert len(answers) > 100
    return [each for each in answers if each["status"] != 200]


def test_a_key_is_added_and_no_request_fails(ward: Ward, record_property: Any) -> None:
    loop(ward, "through-a-key", 150)
    time.sleep(5)
    began = time.monotonic()
    ward.cluster.apply([keys(KEY, SECOND_KEY)])
    ward.give_key("second", SECOND_KEY)
    words = ["python", "/given/client_loop.py", f"{SERVICE}/v1/models", "/given/second", "1"]
    ward.pod("new-key", CLIENTS, {"app": "client"}, *words, "130")
    assert failures(ward, "through-a-key", 400) == []
    _, log = ward.ran("new-key", CLIENTS)
    answers = [json.loads(line)["status"] for line in log.splitlines()]
    assert answers[-1] == 200
    record_property("key_counts_after_answers", answers.count(401))
    record_property("key_s", round(time.monotonic() - began, 1))


def end(ward: Ward, labels: str) -> str:
    """Take a Pod away at once, as a node that goes does; its name."""
    [pod] = ward.pods(labels)
    name = str(pod["metadata"]["name"])
    ward.cluster.kubectl("delete", "pod", "-n", NAMESPACE, name, "--grace-period=0", "--force")
    return name


def test_the_head_of_the_service_dies(ward: Ward, record_property: Any) -> None:
    loop(ward, "through-a-head", 420)
    time.sleep(5)
    end(ward, "sonoray.io/part=service,ray.io/node-type=head")
    failed = failures(ward, "through-a-head", 900)
    away_s = failed[-1]["at"] - failed[0]["at"] if failed else 0.0
    record_property("head_away_s", round(away_s, 1))
    record_property("head_failed_requests", len(failed))
    assert away_s <= HEAD_AWAY_S


def test_mlflow_dies_and_comes_back_and_the_service_does_not_notice(ward: Ward) -> None:
    loop(ward, "through-mlflow", 120)
    time.sleep(5)
    gone = end(ward, "app.kubernetes.io/name=mlflow")

    def is_back() -> bool:
        states = [
            condition["status"]
            for pod in ward.pods("app.kubernetes.io/name=mlflow")
            for condition in pod["status"].get("conditions", ())
            if condition["type"] == "Ready" and pod["metadata"]["name"] != gone
        ]
        return states == ["True"]

    until(is_back, "another MLflow", 300)
    assert failures(ward, "through-mlflow", 400) == []


def test_another_image_comes_in_and_no_request_fails(ward: Ward, record_property: Any) -> None:
    [old] = ward.pods("sonoray.io/part=service,ray.io/node-type=head")
    loop(ward, "through-an-image", 400)
    time.sleep(5)
    ward.site.write_text(f'{SITE}\n[image]\ntag = "next"\n', encoding="utf-8")
    began = time.monotonic()
    ward.sonoray("apply", "service")
    record_property("image_s", round(time.monotonic() - began, 1))
    assert failures(ward, "through-an-image", 900) == []
    heads = ward.pods("sonoray.io/part=service,ray.io/node-type=head")
    newest = max(heads, key=lambda pod: pod["metadata"]["creationTimestamp"])
    assert newest["metadata"]["name"] != old["metadata"]["name"]
    assert newest["spec"]["containers"][0]["image"].endswith(":next")


def test_the_worker_of_the_service_dies_and_another_answers(
    ward: Ward, record_property: Any
) -> None:
    """Of one worker; with two of them the other one answers meanwhile."""
    service = ward.cluster.read("rayservices", "-n", NAMESPACE)["items"][0]
    cluster = service["status"]["activeServiceStatus"]["rayClusterName"]
    loop(ward, "through-a-worker", 300)
    time.sleep(5)
    end(ward, f"ray.io/cluster={cluster},ray.io/node-type=worker")
    failed = failures(ward, "through-a-worker", 600)
    away_s = failed[-1]["at"] - failed[0]["at"] if failed else 0.0
    record_property("worker_away_s", round(away_s, 1))
    assert away_s <= WORKER_AWAY_S
