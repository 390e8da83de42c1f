"""Check a machine before a job does: each check says what it found and names the fix.

The same checks run in the driver and in a task on every node of the Ray session, because a worker
may see another PATH: DeepSpeed compiles a small C++ module in the training worker and calls `c++`
and `ninja` by name. Judging is separated from measuring: every `check_*` function is a pure
function of what was measured, `measure_machine` and `run` do the measuring.

Thresholds: `make demo` holds about 3 GiB at its peak with two training workers, hence 4 GiB of
memory as the least and 8 as comfortable; a workspace of the phantom road takes well under 2 GiB.
A full run takes about 20 s, most of it the start of a private Ray and two imports of torch.
"""

import io
import os
import shutil
import socket
import sys
import sysconfig
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

from sonoray.cluster.address import local_ray_addresses
from sonoray.cluster.session import (
    memory_limit_bytes,
    object_store_bytes,
    path_with_interpreter,
    ray_session,
)
from sonoray.cluster.token import token_path
from sonoray.errors import ClusterError

GIB = 1024**3
MIN_PYTHON = (3, 11)
PORTS = {8000: "sonoray serve", 8265: "a Ray dashboard"}
WORKER_TIMEOUT_S = 120.0
_JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray sets it for the entrypoint of a submitted job, beside RAY_ADDRESS."""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """All checks of one run."""

    checks: tuple[Check, ...]

    @property
    def healthy(self) -> bool:
        """Whether no check failed; warnings do not count."""
        return all(check.status is not Status.FAIL for check in self.checks)

    @property
    def exit_code(self) -> int:
        """1 where a check failed."""
        return 0 if self.healthy else 1

    def lines(self) -> list[str]:
        """Render a table, coloured on a terminal, as wide as the terminal (100 elsewhere)."""
        from rich.console import Console
        from rich.table import Table

        table = Table("where", "check", "status")
        for column in ("found", "fix"):
            table.add_column(column, overflow="fold")
        colours = {Status.OK: "green", Status.WARN: "yellow", Status.FAIL: "red"}
        for check in self.checks:
            colour = colours[check.status]
            status = f"[{colour}]{check.status}[/{colour}]"
            table.add_row(check.where, check.name, status, check.found, check.fix)
        console = Console(
            file=io.StringIO(),
            force_terminal=sys.stdout.isatty(),
            width=shutil.get_terminal_size((100, 24)).columns,
        )
        with console.capture() as capture:
            console.print(table)
        num_failed = sum(check.status is Status.FAIL for check in self.checks)
        verdict = f"{num_failed} of {len(self.checks)} checks failed" if num_failed else "healthy"
        return [*capture.get().splitlines(), verdict]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"healthy": self.healthy, "checks": [asdict(check) for check in self.checks]}


def run(*, workspace: Path, address: str | None) -> Report:
    """Run all checks, in this process and on every node of the Ray session.

    Args:
        workspace: its disk is checked; it need not exist and is not made.
        address: a running cluster to check; a private Ray otherwise.
    """
    before = [
        *measure_machine(workspace, path_with_interpreter(os.environ.get("PATH", ""))),
        check_program("make", shutil.which("make"), "apt-get install make", needed=False),
        check_program("git", shutil.which("git"), "apt-get install git", needed=False),
        *(check_port(port, user, taken=is_taken(port)) for port, user in PORTS.items()),
        check_ray_instances(
            local_ray_addresses(), os.environ.get("RAY_ADDRESS"), in_job=_JOB_VARIABLE in os.environ
        ),
        check_token(token_path(), _mode(token_path())),
    ]
    return Report(checks=(*before, *_check_workers(address, workspace)))


def measure_machine(workspace: Path, path: str | None = None) -> list[Check]:
    """Run the checks that matter on every machine.

    Args:
        workspace: its disk is measured; need not exist.
        path: folders to look for programs in; by default this process's PATH.
    """
    folder = _existing_parent(workspace)
    compiler = os.environ.get("CXX", "c++")
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    shm = Path("/dev", "shm")
    return [
        check_python(sys.version_info[:3]),
        check_program("compiler", shutil.which(compiler, path=path), "apt-get install g++"),
        check_program(
            "ninja",
            shutil.which("ninja", path=path),
            f"put {Path(sys.executable).parent} first on the PATH of this process",
        ),
        check_headers(headers, exists=headers.is_file()),
        _measure_torch(),
        check_cpus(len(os.sched_getaffinity(0)), os.getloadavg()[0]),
        check_memory(memory_limit_bytes()),
        check_disk(folder, shutil.disk_usage(folder).free),
        check_shared_memory(
            shutil.disk_usage(shm).free if shm.is_dir() else 0, object_store_bytes()
        ),
    ]


def check_python(version: tuple[int, ...]) -> Check:
    """The interpreter is new enough."""
    return _judge(
        "Python",
        ".".join(map(str, version)),
        fail=version < MIN_PYTHON,
        fix=f"use Python {'.'.join(map(str, MIN_PYTHON))} or newer: make PYTHON=/path/to/python3",
    )


def check_program(name: str, path: str | None, fix: str, *, needed: bool = True) -> Check:
    """A program is on PATH; one that only development needs is a warning."""
    missing = path is None
    found = path or "not on PATH"
    return _judge(name, found, fail=missing and needed, warn=missing, fix=fix)


def check_headers(path: Path, *, exists: bool) -> Check:
    """Python's C headers are there, for DeepSpeed's compiled module."""
    found = str(path) if exists else f"no {path}"
    return _judge("Python headers", found, fail=not exists, fix="apt-get install python3-dev")


def check_torch(torch: str, torchvision: str, cuda: str | None, *, has_gpu: bool) -> Check:
    """The two packages load together, and the build fits the hardware."""
    return _judge(
        "torch pair",
        f"torch {torch}, torchvision {torchvision}, CUDA {cuda or 'none'}",
        warn=has_gpu and cuda is None,
        fix="this machine has an NVIDIA GPU: install a torch build with CUDA",
    )


def check_cpus(num_cpus: int, load: float) -> Check:
    """There are two CPUs, one of them idle."""
    return _judge(
        "CPUs",
        f"{num_cpus}, load {load:.1f}",
        warn=num_cpus < 2 or load > num_cpus - 0.5,
        fix="jobs will be slow: stop other work, or use a machine with at least 2 CPUs",
    )


def check_memory(limit_bytes: int) -> Check:
    """There is memory for two training workers."""
    return _judge(
        "memory",
        f"{limit_bytes / GIB:.1f} GiB",
        fail=limit_bytes < 4 * GIB,
        warn=limit_bytes < 8 * GIB,
        fix="give the machine or container 8 GiB, or set train.num_workers=1",
    )


def check_disk(folder: Path, free_bytes: int) -> Check:
    """The workspace's disk has room."""
    return _judge(
        "disk",
        f"{free_bytes / GIB:.1f} GiB free at {folder}",
        fail=free_bytes < 2 * GIB,
        warn=free_bytes < 10 * GIB,
        fix="free some space or choose another --workspace",
    )


def check_shared_memory(free_bytes: int, wanted_bytes: int) -> Check:
    """Ray's object store fits into /dev/shm; else Ray puts it on disk, which is slow."""
    return _judge(
        "shared memory",
        f"{free_bytes / GIB:.1f} GiB free in /dev/shm",
        warn=free_bytes < wanted_bytes,
        fix=f"start the container with --shm-size={wanted_bytes / GIB:.1f}g",
    )


def check_port(port: int, user: str, *, taken: bool) -> Check:
    """A port is free for the one that uses it by default."""
    return _judge(
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
        return _judge("Ray instances", f"a job of the cluster at {configured}")
    if configured:
        found, fix = f"RAY_ADDRESS={configured}", "every command joins it: unset it if unintended"
    else:
        found = ", ".join(sorted(addresses)) or "none running"
        fix = (
            "they use this machine's CPUs: end the command or service that started each; "
            "ray stop ends every Ray here, also a running sonoray serve"
        )
    return _judge("Ray instances", found, warn=bool(configured or addresses), fix=fix)


def check_token(path: Path, mode: int | None) -> Check:
    """Ray's token, which gives whoever reads it the right to run code, is the owner's alone."""
    found = "none yet; made when needed" if mode is None else f"{path} has mode {mode:04o}"
    return _judge("Ray token", found, fail=bool(mode and mode & 0o077), fix=f"chmod 600 {path}")


def check_node(node: str, get: Callable[[], list[Check]]) -> list[Check]:
    """What a node found; one failed check where it did not get that far.

    One node must not cost the report of all others, and the one that is broken is the one to name.

    Args:
        node: its address.
        get: waits for what its task measured.
    """
    from ray.exceptions import GetTimeoutError, RayError, RayTaskError

    where = f"worker {node}"
    try:
        return [replace(check, where=where) for check in get()]
    except GetTimeoutError:
        found = f"no answer within {WORKER_TIMEOUT_S:.0f} s"
        fix = "see whether the node is busy or hangs, then run this again"
    except RayTaskError as error:
        found = str(error).strip().splitlines()[-1]  # above it stands the traceback
        fix = "install the same wheel and requirements.lock on this node"
    except RayError as error:
        found = " ".join(str(error).split())
        fix = "restart Ray on this node: ray stop, then ray start --address"
    return [replace(_judge("node", found, fail=True, fix=fix), where=where)]


def is_taken(port: int) -> bool:
    """Whether something listens at a port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a closed one may linger
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
        return False


def _measure_torch() -> Check:
    """Load both packages: torchvision refuses a torch that it was not built for."""
    try:
        import torch
        import torchvision  # type: ignore[import-untyped]
    except Exception as error:
        found = f"{type(error).__name__}: {' '.join(str(error).split())}"
        fix = "install both from the lock, from one index: make clean demo"
        return _judge("torch pair", found, fail=True, fix=fix)
    return check_torch(
        torch.__version__,
        torchvision.__version__,
        torch.version.cuda,
        has_gpu=Path("/dev/nvidiactl").exists(),
    )


def _check_workers(address: str | None, workspace: Path) -> list[Check]:
    """Run `measure_machine` in a Ray task on every node."""
    start = time.monotonic()
    try:
        with ray_session(address) as joined:
            import ray
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

            session = f"joined {joined}" if address else f"at {joined}"
            checks = [_judge("Ray", f"{session} in {time.monotonic() - start:.1f} s")]
            list_nodes: Callable[[], list[dict[str, Any]]] = ray.nodes
            nodes = {
                node["NodeManagerAddress"]: NodeAffinitySchedulingStrategy(node["NodeID"], False)
                for node in list_nodes()
                if node["Alive"]
            }
            task = ray.remote(num_cpus=0)(measure_machine)
            work = {
                name: task.options(scheduling_strategy=strategy).remote(workspace.resolve())
                for name, strategy in nodes.items()
            }
            for name, reference in work.items():
                get = partial(ray.get, reference, timeout=WORKER_TIMEOUT_S)
                checks += check_node(name, get)
            return checks
    except ClusterError as error:
        return [_judge("Ray", str(error), fail=True, fix="see the message")]


def _judge(
    name: str, found: str, *, fail: bool = False, warn: bool = False, fix: str = ""
) -> Check:
    status = Status.FAIL if fail else Status.WARN if warn else Status.OK
    return Check(name=name, status=status, found=found, fix="" if status is Status.OK else fix)


def _existing_parent(path: Path) -> Path:
    path = path.expanduser().resolve()
    return next(parent for parent in (path, *path.parents) if parent.is_dir())


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode & 0o777
    except OSError:
        return None
