"""A real control plane on loopback: etcd, API server, controllers, scheduler, operator, kwok.

The binaries are built once (`make k8s-tools`) and lie in a cache outside the repository, by the
content of what they are built from. Each run has a folder and ports of its own.
"""

import hashlib
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
OPERATOR_VERSION = "v1.6.0"
KWOK_VERSION = "v0.8.0"
PARTS = ("etcd", "controlplane")
START_S = 240.0


def cache_folder() -> Path:
    """Where the binaries of these sources lie."""
    digest = hashlib.sha256()
    for name in ("go.mod", "main.go"):
        digest.update((HERE / "controlplane" / name).read_bytes())
    digest.update(f"{OPERATOR_VERSION} {KWOK_VERSION}".encode())
    root = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return root / "sonoray" / f"k8s-tools-{digest.hexdigest()[:16]}"


def missing(*names: str) -> str:
    """Why a test cannot run, empty where it can."""
    folder = cache_folder()
    absent = [name for name in names if not (folder / name).is_file()]
    return f"{', '.join(absent)} not in {folder}; run: make k8s-tools" if absent else ""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class ControlPlane:
    """Processes of one control plane; `kubeconfig` leads to it as its administrator.

    Args:
        folder: for all that is written.
        inside: words before each command, which bring it into namespaces of its own.
        address: where the API server listens.
        port: of the API server; by default a free one.
    """

    def __init__(
        self,
        folder: Path,
        *,
        inside: Sequence[str] = (),
        address: str = "127.0.0.1",
        port: int | None = None,
    ) -> None:
        self._inside, self._address = tuple(inside), address
        self.folder = folder
        self.kubeconfig = folder / "admin.kubeconfig"
        self.container_log = folder / "container.log"
        self._bin = cache_folder()
        self._token = secrets.token_hex(16)
        self._operator_token = secrets.token_hex(16)
        self._processes: list[subprocess.Popen[bytes]] = []
        self.port = port or free_port()

    def start(self) -> None:
        """Start etcd, API server, controller manager and scheduler."""
        folder, etcd = self.folder, free_port()
        key = folder / "accounts.key"
        for command in (
            ["openssl", "genrsa", "-out", str(key), "2048"],
            ["openssl", "rsa", "-in", str(key), "-pubout", "-out", str(folder / "accounts.pub")],
        ):
            subprocess.run(command, check=True, capture_output=True)
        (folder / "tokens.csv").write_text(
            f'{self._token},admin,admin,"system:masters"\n'
            f"{self._operator_token},kuberay-operator,operator\n"
        )
        url = f"http://127.0.0.1:{etcd}"
        peer = f"http://127.0.0.1:{free_port()}"
        self.run(
            "etcd",
            f"--data-dir={folder / 'etcd'}",
            f"--listen-client-urls={url}",
            f"--advertise-client-urls={url}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
        )
        self.run(
            "controlplane",
            "kube-apiserver",
            f"--etcd-servers={url}",
            f"--bind-address={self._address}",
            f"--secure-port={self.port}",
            "--advertise-address=10.99.0.1",
            "--endpoint-reconciler-type=none",
            "--service-cluster-ip-range=10.96.0.0/16",
            f"--cert-dir={folder / 'certs'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={folder / 'accounts.pub'}",
            f"--service-account-signing-key-file={key}",
            "--authorization-mode=Node,RBAC",
            f"--token-auth-file={folder / 'tokens.csv'}",
        )
        self._write_kubeconfig("admin", self._token)
        self._write_kubeconfig("operator", self._operator_token)
        self._await_ready()
        way = f"--kubeconfig={self.kubeconfig}"
        ways = [
            f"--{kind}-kubeconfig={self.kubeconfig}" for kind in ("authentication", "authorization")
        ]
        self.run(
            "controlplane",
            "kube-controller-manager",
            way,
            *ways,
            "--leader-elect=false",
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={key}",
            f"--root-ca-file={folder / 'certs' / 'apiserver.crt'}",
            "--bind-address=127.0.0.1",
            f"--secure-port={free_port()}",
        )
        self.run(
            "controlplane",
            "kube-scheduler",
            way,
            *ways,
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            f"--secure-port={free_port()}",
        )

    def start_operator(self) -> None:
        """Start KubeRay's operator."""
        self.run(
            "ray-operator",
            "--enable-leader-election=false",
            f"--metrics-addr=127.0.0.1:{free_port()}",
            f"--health-probe-bind-address=127.0.0.1:{free_port()}",
            KUBECONFIG=str(self.folder / "admin.kubeconfig"),
        )

    def start_kwok(self) -> None:
        """Start kwok, which plays the kubelet of nodes with its annotation.

        Pods run until they are deleted; the log of every container is `container.log`.
        """
        port = free_port()
        self.container_log.touch()
        config = self.folder / "kwok.yaml"
        config.write_text(
            (cache_folder() / "kwok-stages.yaml").read_text()
            + "\n---\napiVersion: kwok.x-k8s.io/v1alpha1\nkind: ClusterLogs\n"
            + "metadata: {name: all}\nspec:\n  logs:\n"
            + f"  - {{logsFile: {self.container_log}, follow: true}}\n"
        )
        key, certificate = self.folder / "kwok.key", self.folder / "kwok.crt"
        subprocess.run(
            [
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-subj=/CN=kwok",
                f"-keyout={key}",
                f"-out={certificate}",
            ],
            check=True,
            capture_output=True,
        )
        self.run(
            "kwok",
            f"--kubeconfig={self.kubeconfig}",
            "--manage-all-nodes=false",
            "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
            "--cidr=10.245.0.1/16",
            "--node-ip=127.0.0.1",
            f"--node-port={port}",
            f"--server-address=127.0.0.1:{port}",
            f"--tls-cert-file={certificate}",
            f"--tls-private-key-file={key}",
            f"--config={config}",
        )

    def stop(self) -> None:
        """End all processes at once: nothing of theirs is kept."""
        for process in reversed(self._processes):
            process.kill()
        for process in self._processes:
            process.wait()

    def run(self, name: str, *arguments: str, **environment: str) -> None:
        """Start one of the binaries; its output goes to a log in the folder."""
        log = self.folder / f"{name}-{len(self._processes)}.log"
        with log.open("wb") as out:
            self._processes.append(
                subprocess.Popen(
                    [*self._inside, str(self._bin / name), *arguments],
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **environment},
                )
            )

    def log_tail(self) -> str:
        """The last lines of all logs, for a failure."""
        return "\n".join(
            f"== {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-15:])
            for path in sorted(self.folder.glob("*.log"))
        )

    def _write_kubeconfig(self, name: str, token: str) -> None:
        server = f"https://{self._address}:{self.port}"
        path = self.folder / f"{name}.kubeconfig"
        path.write_text(
            "apiVersion: v1\nkind: Config\ncurrent-context: x\n"
            "clusters: [{name: c, cluster: "
            f'{{server: "{server}", certificate-authority: {self.folder}/certs/apiserver.crt}}}}]\n'
            f"users: [{{name: u, user: {{token: {token}}}}}]\n"
            "contexts: [{name: x, context: {cluster: c, user: u}}]\n"
        )
        path.chmod(0o600)

    def _await_ready(self) -> None:
        asks = ["kubectl", f"--kubeconfig={self.kubeconfig}", "get", "--raw=/readyz"]
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            dead = [each for each in self._processes if each.poll() is not None]
            if dead:
                break
            if not subprocess.run(
                [*self._inside, *asks], capture_output=True, check=False
            ).returncode:
                return
            time.sleep(0.5)
        raise RuntimeError(f"the API server did not start\n{self.log_tail()}")


def clean(folder: Path) -> None:
    """Remove what a run left."""
    shutil.rmtree(folder, ignore_errors=True)
