"""Build the control plane of the tests into its cache: `make k8s-tools`.

Takes 15 minutes on two idle cores, once: Kubernetes' own server is compiled from its published Go
modules, KubeRay's operator and kwok too; etcd, Prometheus and Redis come from Debian. Go and
apt-get must be there.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from control_plane import HERE, KWOK_VERSION, OPERATOR_VERSION, cache_folder

KUBERNETES_VERSION = "v1.36.3"
_VERSION_PACKAGES = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
_OPERATOR = "github.com/ray-project/kuberay/ray-operator"
_KWOK = "sigs.k8s.io/kwok"


def _run(*command: str, folder: Path, **environment: str) -> None:
    sys.stderr.write(f"+ {' '.join(command)[:200]}\n")
    subprocess.run(
        command, cwd=folder, check=True, env={**os.environ, "CGO_ENABLED": "0", **environment}
    )


def _build_server(folder: Path, out: Path) -> None:
    shutil.copytree(HERE / "controlplane", folder / "controlplane")
    _, major, minor, _ = ("v", *KUBERNETES_VERSION[1:].split("."))
    values = {
        "gitVersion": KUBERNETES_VERSION,
        "gitMajor": major,
        "gitMinor": minor,
        "gitTreeState": "clean",
        "gitCommit": "0" * 40,
        "buildDate": "2026-01-01T00:00:00Z",
    }
    flags = [
        f"-X {package}.{key}={value}"
        for package in _VERSION_PACKAGES
        for key, value in values.items()
    ]
    _run(
        "go",
        "build",
        "-trimpath",
        "-tags=selinux,providerless",
        f"-ldflags=-s -w {' '.join(flags)}",
        f"-o={out}",
        ".",
        folder=folder / "controlplane",
        GOFLAGS="-mod=mod -buildvcs=false",
    )


def _install(package: str, folder: Path, out: Path) -> None:
    made = folder / "bin"
    _run("go", "install", "-trimpath", "-ldflags=-s -w", package, folder=folder, GOBIN=str(made))
    [binary] = made.iterdir()
    binary.rename(out)


def _build_kwok(folder: Path, out: Path) -> None:
    """Kwok's module has replacements, so that it is built from within a module that requires it."""
    module = folder / "kwok"
    module.mkdir()
    _run("go", "mod", "init", "sonoray/kwok", folder=module)
    _run("go", "get", "-tool", f"{_KWOK}/cmd/kwok@{KWOK_VERSION}", folder=module)
    _run(
        "go",
        "build",
        "-trimpath",
        "-ldflags=-s -w",
        f"-o={out}",
        f"{_KWOK}/cmd/kwok",
        folder=module,
    )


def _copy_stages(folder: Path, out: Path) -> None:
    """What kwok does with nodes and Pods: its own stages, but for the one that ends Jobs' Pods."""
    _run("go", "mod", "init", "sonoray/stages", folder=folder)
    _run("go", "get", f"{_KWOK}@{KWOK_VERSION}", folder=folder)
    found = subprocess.run(
        ["go", "list", "-m", "-f", "{{.Dir}}", _KWOK],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    )
    stages = Path(found.stdout.strip()) / "kustomize" / "stage"
    names = ("node/fast/node-initialize", "pod/fast/pod-ready", "pod/fast/pod-delete")
    texts = [(stages / f"{name}.yaml").read_text(encoding="utf-8") for name in names]
    out.write_text("\n---\n".join(texts), encoding="utf-8")


def _fetch(packages: Sequence[str], pattern: str, folder: Path, out: Path) -> None:
    """Take a file out of Debian packages, which are not installed."""
    _run("apt-get", "download", *packages, folder=folder)
    for file in folder.glob("*.deb"):
        _run("dpkg", "-x", str(file), "unpacked", folder=folder)
    [found] = [path for path in folder.glob(f"unpacked/usr/{pattern}") if not path.is_symlink()]
    shutil.copy(found, out)


def main() -> None:
    """Build what the cache lacks."""
    for tool in ("go", "apt-get", "dpkg"):
        if shutil.which(tool) is None:
            sys.exit(f"error: {tool} not found; the control plane is built with Go on Debian")
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    parts = {
        "etcd": partial(_fetch, ["etcd-server"], "bin/etcd"),
        "prometheus": partial(_fetch, ["prometheus"], "bin/prometheus"),
        "promtool": partial(_fetch, ["prometheus"], "bin/promtool"),
        # by this name it is the server: what it does depends on what it is called
        "redis-server": partial(_fetch, ["redis-tools"], "bin/redis-check-rdb"),
        "libjemalloc.so.2": partial(_fetch, ["libjemalloc2"], "lib/*/libjemalloc.so.2"),
        "liblzf.so.1": partial(_fetch, ["liblzf1"], "lib/*/liblzf.so.1*"),
        "controlplane": _build_server,
        "ray-operator": lambda folder, out: _install(
            f"{_OPERATOR}@{OPERATOR_VERSION}", folder, out
        ),
        "kwok": _build_kwok,
        "kwok-stages.yaml": _copy_stages,
    }
    for name, build in parts.items():
        if (cache / name).is_file():
            continue
        with tempfile.TemporaryDirectory() as scratch:
            made = Path(scratch) / "made"
            build(Path(scratch), made)
            shutil.move(made, cache / name)
        sys.stderr.write(f"{name} lies in {cache}\n")


if __name__ == "__main__":
    main()
