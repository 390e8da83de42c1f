"""Check a machine before a job does: each check says what it found and names the fix.

The same checks run in the driver and in a task on every node of the Ray session, because a worker
may see another PATH: DeepSpeed compiles a small C++ module in the training worker and calls `c++`
and `ninja` by name. What is measured here is judged by `sonoray_jobs.cluster.checks`.

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
from sonoray_jobs.cluster.checks import (
    Check,
    Status,
    check_cpus,
    check_disk,
    check_headers,
    check_memory,
    check_port,
    check_program,
    check_python,
    check_ray_instances,
    check_shared_memory,
    check_token,
    check_torch,
    judge,
)

WORKER_TIMEOUT_S = 120.0
PORTS = {8000: "sonoray serve", 8265: "a Ray dashboard"}
_JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray sets it for the entrypoint of a submitted job, beside RAY_ADDRESS."""


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
    return [replace(judge("node", found, fail=True, fix=fix), where=where)]


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
        return judge("torch pair", found, fail=True, fix=fix)
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
            checks = [judge("Ray", f"{session} in {time.monotonic() - start:.1f} s")]
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
        return [judge("Ray", str(error), fail=True, fix="see the message")]


def _existing_parent(path: Path) -> Path:
    path = path.expanduser().resolve()
    return next(parent for parent in (path, *path.parents) if parent.is_dir())


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode & 0o777
    except OSError:
        return None
