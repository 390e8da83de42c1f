"""A control plane beside a node that runs Pods as real processes, in namespaces of its own.

Network, mounts and processes lie in namespaces that end with one process: nothing is left of them,
however a test ends, and the machine's own network is not touched. It has to be root on Linux.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from control_plane import HERE, ControlPlane, cache_folder, missing

NODE = HERE / "pod_node"
TOOLS = ("ip", "nft", "unshare", "nsenter", "setpriv", "wget", "openssl")
NAMESPACES = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
"""Before a command: namespaces of its own, which end with it."""
PARTS = ("etcd", "controlplane", "ray-operator", "redis-server")
RESERVED = ("nice", "-n", "-10")
"""Before what a real node reserves a share of its CPUs for."""
API = ("10.99.0.1", 6443)
REDIS = ("10.99.0.1", 6379)
OPERATOR_NAMESPACE = "kuberay-system"


def lacks_tools() -> str:
    """Why Pods cannot have networks of their own here, empty where they can."""
    if os.geteuid() != 0:
        return "networks of their own for Pods need root"
    if absent := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"{', '.join(absent)} not found; Debian: iproute2 nftables util-linux wget openssl"
    return ""


def unable() -> str:
    """Why Pods cannot run as real processes here, empty where they can."""
    if reason := lacks_tools():
        return reason
    return missing(*PARTS) if shutil.which("kubectl") else "kubectl not found"


class RealCluster:
    """Control plane, operator and one node; commands run inside by `run`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._holder: subprocess.Popen[bytes] | None = None
        self._processes: list[subprocess.Popen[bytes]] = []
        self.inside: tuple[str, ...] = ()

    def start(self) -> None:
        """Start everything but the operator, which needs the definitions first."""
        holder = subprocess.Popen([*NAMESPACES, "sleep", "infinity"])
        self._holder = holder
        self.inside = (
            "nsenter",
            "-t",
            str(self._first(holder.pid)),
            "-n",
            "-m",
            "-p",
            f"--wd={self.folder}",
            "--",
        )
        self._done(sys.executable, str(NODE / "network.py"))
        address, port = API
        reserved = (*RESERVED, *self.inside)
        plane = ControlPlane(self.folder, inside=reserved, address=address, port=port)
        plane.start()
        self.kubeconfig = plane.kubeconfig
        self._plane = plane
        with (self.folder / "node.log").open("wb") as log:
            words = [sys.executable, str(NODE / "node.py"), "node-1", str(self.folder)]
            self._processes.append(
                subprocess.Popen([*reserved, *words, str(extensions())], stdout=log, stderr=log)
            )

    def start_redis(self, password: str) -> None:
        """Run a Redis at `REDIS`, outside the cluster's Pods, as a hospital's own lies."""
        address, port = REDIS
        words = [str(cache_folder() / "redis-server"), "--bind", address, "--port", str(port)]
        settings = ["--requirepass", password, "--save", "", "--dir", str(self.folder)]
        with (self.folder / "redis.log").open("wb") as log:
            self._processes.append(
                subprocess.Popen(
                    [*self.inside, *words, *settings],
                    env=os.environ | {"LD_LIBRARY_PATH": str(cache_folder())},
                    stdout=log,
                    stderr=log,
                )
            )

    def start_operator(self) -> None:
        """Run KubeRay's operator as a Pod, as policies want it."""
        self.apply(_operator())

    def stop(self) -> None:
        """End the holder, and with it all that runs in its namespaces."""
        if self._holder is None:
            return
        self._holder.kill()
        self._holder.wait()
        for each in self._processes:
            each.kill()
            each.wait()
        if hasattr(self, "_plane"):
            self._plane.stop()

    def start_command(
        self, *words: str, env: Mapping[str, str] | None = None, out: Path
    ) -> subprocess.Popen[bytes]:
        """Start a command inside; its output goes to a file."""
        with out.open("wb") as log:
            return subprocess.Popen(
                [*self.inside, *words], env=self._env(env), stdout=log, stderr=subprocess.STDOUT
            )

    def run(
        self,
        *words: str,
        env: Mapping[str, str] | None = None,
        given: str | None = None,
        timeout_s: float = 1800,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside."""
        return subprocess.run(
            [*self.inside, *words],
            env=self._env(env),
            input=given,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def call(self, *words: str) -> int:
        """Run a command inside with this process' own input and output; its exit status."""
        here = [each for each in self.inside if not each.startswith("--wd=")]
        return subprocess.run([*here, *words], env=self._env(None), check=False).returncode

    def kubectl(self, *words: str, given: str | None = None) -> str:
        """Run kubectl, which must succeed."""
        done = self.run("kubectl", *words, given=given)
        assert done.returncode == 0, f"kubectl {' '.join(words)}: {done.stderr}"
        return done.stdout

    def read(self, *words: str) -> Any:
        """`kubectl get` as JSON."""
        return json.loads(self.kubectl("get", *words, "-o", "json"))

    def apply(self, objects: Sequence[Mapping[str, Any]]) -> None:
        """Apply objects on the server."""
        made = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        self.kubectl("apply", "--server-side", "-f", "-", given=made)

    def log_tail(self) -> str:
        """The last lines of all logs, for a failure."""
        return self._plane.log_tail() if hasattr(self, "_plane") else ""

    def _env(self, more: Mapping[str, str] | None) -> dict[str, str]:
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig), **(more or {})}

    def _done(self, *words: str) -> None:
        subprocess.run([*self.inside, *words], check=True, capture_output=True, text=True)

    def _first(self, holder: int) -> int:
        """The first process inside."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            text = Path(f"/proc/{holder}/task/{holder}/children").read_text().split()
            if text and Path(f"/proc/{text[0]}/comm").read_text().strip() == "sleep":
                return int(text[0])
            time.sleep(0.05)
        raise RuntimeError("the namespaces were not made")


def extensions() -> Path:
    """DeepSpeed's compiled operation, which the image holds; built once, into the cache."""
    folder = cache_folder() / "torch_extensions"
    subprocess.run(
        [sys.executable, "-m", "sonoray_jobs.training.deepspeed_ops"],
        env={**os.environ, "TORCH_EXTENSIONS_DIR": str(folder)},
        check=True,
        capture_output=True,
    )
    return folder


def _operator() -> list[dict[str, Any]]:
    name = {"name": "kuberay-operator", "namespace": OPERATOR_NAMESPACE}
    labels = {"app.kubernetes.io/component": "kuberay-operator"}
    container = {
        "name": "operator",
        "image": "operator",
        "command": ["/tools/ray-operator", "--enable-leader-election=false"],
        "volumeMounts": [{"name": "tools", "mountPath": "/tools", "readOnly": True}],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": 8082}, "periodSeconds": 2},
    }
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OPERATOR_NAMESPACE}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": name},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "kuberay-operator"},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": "cluster-admin",
            },
            "subjects": [{"kind": "ServiceAccount", **name}],
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": name,
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {
                        "serviceAccountName": "kuberay-operator",
                        "containers": [container],
                        "volumes": [{"name": "tools", "hostPath": {"path": str(cache_folder())}}],
                    },
                },
            },
        },
    ]
