"""How long a Ray cluster and a job take to start on Kubernetes, beside an earlier checkout.

```
make k8s-tools
PYTHONPATH=tests/k8s_live python bench/kubernetes/start.py --base CHECKOUT_OF_829b5a9
```

Both checkouts' manifests are applied in turn to one control plane, whose node runs Pods as real
processes (tests/k8s_live); images are there. A cluster is a head and one worker: from the command
to all its Pods ready, and the parts of that. A job is a training that has no dataset: from the
command to that line of its own log. Medians of the rounds, and their ratios; needs root.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from real_cluster import OPERATOR_NAMESPACE, RealCluster, unable
from resource_definitions import definitions, wait_established

BASE_NAMESPACE, OWN_NAMESPACE = "sonoray", "ward"
SITE = f"""
extends = "dev-cpu"
namespace = "{OWN_NAMESPACE}"

[groups.workers]
min = 1

[keep]
failed_s = 0
"""
NO_DATASET = "sonoray ingest"
"""What the first line of a training without a dataset tells its reader to do."""


def wait(told: Callable[[], object], within_s: float = 900) -> None:
    """Wait until it is true."""
    deadline = time.monotonic() + within_s
    while not told():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{told.__qualname__} did not come within {within_s:g} s")
        time.sleep(0.2)


class Start:
    """The two ways on one cluster."""

    def __init__(self, cluster: RealCluster, base: Path, folder: Path) -> None:
        self._cluster = cluster
        self._site = folder / "site.toml"
        self._site.write_text(SITE, encoding="utf-8")
        overlay = base / "k8s" / "overlays" / "local"
        made = subprocess.run(
            ["kubectl", "kustomize", str(overlay)], capture_output=True, text=True, check=True
        )
        self._base = made.stdout.replace("image: sonoray", "image: earlier/sonoray")

    def platforms(self) -> None:
        """What both need before: namespace, volumes, policies, MLflow."""
        self._sonoray("apply", "platform")
        self._apply_base("platform")
        # the earlier ones let DNS through to Pods of kube-dns alone, and the node's is none
        self._cluster.kubectl("delete", "networkpolicy", "-n", BASE_NAMESPACE, "--all")

    def own_cluster(self) -> dict[str, float]:
        """A standing cluster of this checkout."""
        began = time.time()
        self._sonoray("apply", "cluster")
        found = self._ready(OWN_NAMESPACE, began)
        self._sonoray("delete", "cluster")
        self._gone(OWN_NAMESPACE)
        return found

    def base_cluster(self) -> dict[str, float]:
        """The same of the other one."""
        began = time.time()
        self._apply_base("cluster")
        found = self._ready(BASE_NAMESPACE, began)
        self._cluster.kubectl("delete", "raycluster", "-n", BASE_NAMESPACE, "--all")
        self._gone(BASE_NAMESPACE)
        return found

    def own_job(self) -> dict[str, float]:
        """A job of this checkout."""
        began = time.time()
        out = self._cluster.folder / "submit.log"
        words = [sys.executable, "-m", "sonoray_jobs.cli", "k8s", "submit", "train"]
        running = self._cluster.start_command(
            *words, env={"SONORAY_SITE": str(self._site)}, out=out
        )
        wait(lambda: NO_DATASET in out.read_text(encoding="utf-8"))
        took_s = time.time() - began
        running.wait()
        self._cluster.kubectl("delete", "rayjob", "-n", OWN_NAMESPACE, "--all")
        self._gone(OWN_NAMESPACE)
        return {"first_line_s": took_s}

    def base_job(self) -> dict[str, float]:
        """The same of the other one."""
        began = time.time()
        self._apply_base("train")
        role = ("-n", BASE_NAMESPACE, "-l", "sonoray.io/role=submitter")

        def told() -> bool:
            done = self._cluster.run("kubectl", "logs", *role, "--tail=-1")
            return NO_DATASET in done.stdout

        wait(told)
        took_s = time.time() - began
        self._cluster.kubectl("delete", "rayjob", "-n", BASE_NAMESPACE, "--all")
        self._gone(BASE_NAMESPACE)
        return {"first_line_s": took_s}

    def _ready(self, namespace: str, began: float) -> dict[str, float]:
        """Seconds from `began` to both Pods ready, and its parts in Kubernetes' whole seconds."""
        found: dict[str, dict[str, str]] = {}

        def are_ready() -> bool:
            listed = self._cluster.read("pods", "-n", namespace, "-l", "ray.io/is-ray-node=yes")
            for pod in listed["items"]:
                found[pod["metadata"]["labels"]["ray.io/node-type"]] = {
                    each["type"]: each["lastTransitionTime"]
                    for each in pod["status"].get("conditions", ())
                    if each["status"] == "True"
                }
            return set(found) == {"head", "worker"} and all(
                "Ready" in each for each in found.values()
            )

        wait(are_ready)
        all_ready_s = time.time() - began

        def after(kind: str, condition: str) -> float:
            return datetime.fromisoformat(found[kind][condition]).timestamp() - began

        return {
            "ready_s": all_ready_s,
            "scheduled_s": after("head", "PodScheduled"),
            "head_ready_s": after("head", "Ready"),
            "worker_initialized_s": after("worker", "Initialized"),
        }

    def _gone(self, namespace: str) -> None:
        wait(
            lambda: (
                not self._cluster.read("pods", "-n", namespace, "-l", "ray.io/is-ray-node=yes")[
                    "items"
                ]
            )
        )

    def _apply_base(self, component: str) -> None:
        label = f"app.kubernetes.io/component={component}"
        words = ["apply", "--server-side", "-l", label, "-f", "-"]
        self._cluster.kubectl(*words, given=self._base)

    def _sonoray(self, *words: str) -> None:
        done = self._cluster.run(
            *(sys.executable, "-m", "sonoray_jobs.cli", "k8s", *words),
            env={"SONORAY_SITE": str(self._site)},
        )
        assert done.returncode == 0, done.stdout + done.stderr


def main() -> None:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True, help="checkout of the earlier code")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if reason := unable():
        sys.exit(f"error: {reason}")
    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        cluster = RealCluster(Path(scratch))
        try:
            cluster.start()
            for each in definitions():
                cluster.apply([each])
            wait_established(lambda *words: cluster.run("kubectl", *words))
            cluster.start_operator()
            cluster.kubectl(
                *("wait", "--for=condition=Available", "deployment/kuberay-operator"),
                *("-n", OPERATOR_NAMESPACE, "--timeout=300s"),
            )
            start = Start(cluster, given.base, Path(scratch))
            start.platforms()
            for number in range(given.rounds):
                for name in ("base_cluster", "own_cluster", "base_job", "own_job"):
                    told = getattr(start, name)()
                    sys.stderr.write(f"round {number} {name} {told}\n")
                    found.setdefault(name, []).append(told)
        finally:
            cluster.stop()
    medians = {
        name: {key: round(statistics.median(each[key] for each in rows), 1) for key in rows[0]}
        for name, rows in found.items()
    }
    ratios = {
        "cluster": medians["own_cluster"]["ready_s"] / medians["base_cluster"]["ready_s"],
        "job": medians["own_job"]["first_line_s"] / medians["base_job"]["first_line_s"],
    }
    print(json.dumps({"medians": medians, "ratios": ratios}, indent=1))


if __name__ == "__main__":
    main()
