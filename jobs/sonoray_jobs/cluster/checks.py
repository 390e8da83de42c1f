"""What `doctor` says of what it measured: one pure function for each check.

Thresholds: `make demo` holds about 3 GiB at its peak with two training workers, hence 4 GiB of
memory as the least and 8 as comfortable; a workspace of the phantom road takes well under 2 GiB.
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

GIB = 1024**3
MIN_PYTHON = (3, 11)


class Status(StrEnum):
    """Outcome of a check."""

    OK = "ok"
    WARN = "warn"
    """Works, but something may surprise."""
    FAIL = "fail"
    """A job will fail on it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One checked thing."""

    name: str
    status: Status
    found: str
    fix: str = ""
    """What to do; empty where all is well."""
    where: str = "driver"
    """`driver`, or the node's address."""


def check_python(version: tuple[int, ...]) -> Check:
    """The interpreter is new enough."""
    return judge(
        "Python",
        ".".join(map(str, version)),
        fail=version < MIN_PYTHON,
        fix=f"use Python {'.'.join(map(str, MIN_PYTHON))} or newer: make PYTHON=/path/to/python3",
    )


def check_program(name: str, path: str | None, fix: str, *, needed: bool = True) -> Check:
    """A program is on PATH; one that only development needs is a warning."""
    missing = path is None
    found = path or "not on PATH"
    return judge(name, found, fail=missing and needed, warn=missing, fix=fix)


def check_headers(path: Path, *, exists: bool) -> Check:
    """Python's C headers are there, for DeepSpeed's compiled module."""
    found = str(path) if exists else f"no {path}"
    return judge("Python headers", found, fail=not exists, fix="apt-get install python3-dev")


def check_torch(torch: str, torchvision: str, cuda: str | None, *, has_gpu: bool) -> Check:
    """The two packages load together, and the build fits the hardware."""
    return judge(
        "torch pair",
        f"torch {torch}, torchvision {torchvision}, CUDA {cuda or 'none'}",
        warn=has_gpu and cuda is None,
        fix="this machine has an NVIDIA GPU: install a torch build with CUDA",
    )


def check_cpus(num_cpus: int, load: float) -> Check:
    """There are two CPUs, one of them idle."""
    return judge(
        "CPUs",
        f"{num_cpus}, load {load:.1f}",
        warn=num_cpus < 2 or load > num_cpus - 0.5,
        fix="jobs will be slow: stop other work, or use a machine with at least 2 CPUs",
    )


def check_memory(limit_bytes: int) -> Check:
    """There is memory for two training workers."""
    return judge(
        "memory",
        f"{limit_bytes / GIB:.1f} GiB",
        fail=limit_bytes < 4 * GIB,
        warn=limit_bytes < 8 * GIB,
        fix="give the machine or container 8 GiB, or set train.num_workers=1",
    )


def check_disk(folder: Path, free_bytes: int) -> Check:
    """The workspace's disk has room."""
    return judge(
        "disk",
        f"{free_bytes / GIB:.1f} GiB free at {folder}",
        fail=free_bytes < 2 * GIB,
        warn=free_bytes < 10 * GIB,
        fix="free some space or choose another --workspace",
    )


def check_shared_memory(free_bytes: int, wanted_bytes: int) -> Check:
    """Ray's object store fits into /dev/shm; else Ray puts it on disk, which is slow."""
    return judge(
        "shared memory",
        f"{free_bytes / GIB:.1f} GiB free in /dev/shm",
        warn=free_bytes < wanted_bytes,
        fix=f"start the container with --shm-size={wanted_bytes / GIB:.1f}g",
    )


def check_port(port: int, user: str, *, taken: bool) -> Check:
    """A port is free for the one that uses it by default."""
    return judge(
        f"port {port}",
        "taken" if taken else "free",
        warn=taken,
        fix=f"{user} uses it by default: choose another --port or stop what listens there",
    )


def check_ray_instances(
    addresses: set[str], configured: str | None, *, in_job: bool = False
) -> Check:
    """No Ray that a command would join, or compete with, by accident.

    Args:
        addresses: those of the Ray instances on this machine.
        configured: RAY_ADDRESS.
        in_job: whether this runs as a job of a cluster: Ray then names that cluster itself.
    """
    if in_job and configured:
        return judge("Ray instances", f"a job of the cluster at {configured}")
    if configured:
        found, fix = f"RAY_ADDRESS={configured}", "every command joins it: unset it if unintended"
    else:
        found = ", ".join(sorted(addresses)) or "none running"
        fix = (
            "they use this machine's CPUs: end the command or service that started each; "
            "ray stop ends every Ray here, also a running sonoray serve"
        )
    return judge("Ray instances", found, warn=bool(configured or addresses), fix=fix)


def check_token(path: Path, mode: int | None) -> Check:
    """Ray's token, which gives whoever reads it the right to run code, is the owner's alone."""
    found = "none yet; made when needed" if mode is None else f"{path} has mode {mode:04o}"
    return judge("Ray token", found, fail=bool(mode and mode & 0o077), fix=f"chmod 600 {path}")


def judge(name: str, found: str, *, fail: bool = False, warn: bool = False, fix: str = "") -> Check:
    """Make a check; its fix is left out where all is well."""
    status = Status.FAIL if fail else Status.WARN if warn else Status.OK
    return Check(name=name, status=status, found=found, fix="" if status is Status.OK else fix)
