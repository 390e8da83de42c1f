"""One Ray session per command: reuse it, connect to it, or start a private one.

Every job opens its session here, so that the same code runs on a laptop, inside a submitted job and
on a cluster. Choices:

- **Private by default.** Without `--address` and `RAY_ADDRESS` a command starts its own instance
  and stops it again; it never joins a Ray that happens to run on the machine. Its GCS port is
  chosen first, so `RAY_ADDRESS` stands in the environment of every worker: without it Ray Train's
  helpers search the process table and fail where they find a second instance.
- **Refuse fast.** An address is probed before Ray is asked (`sonoray.cluster.address`).
- **Small footprint.** Object store of at most 2 GiB or 20 % of the memory; dashboard, usage report
  and uv hook off; temporary files (which hold pixels) in a folder of mode 0700 under /tmp, where
  socket paths stay below the kernel's 107 bytes, removed with the session
  (`sonoray.cluster.scratch`).
- **Workers see the venv's tools.** The interpreter's folder is prepended to PATH: DeepSpeed calls
  `ninja` by name.
"""

import contextlib
import importlib.util
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sonoray.cluster.address import check_address, first_line
from sonoray.cluster.lean_node import lean_node
from sonoray.cluster.scratch import scratch_folder
from sonoray.cluster.token import ensure_token_file, use_configured_token
from sonoray.errors import ClusterError

logger = logging.getLogger(__name__)

PACKAGES = ("sonoray", "llava_ultra", "sonoray_jobs", "sonoray_serve")
CPU_WAIT_S = 15.0
MAX_OBJECT_STORE_BYTES = 2 * 1024**3
OBJECT_STORE_FRACTION = 0.2
MIN_STARTING_WORKERS = 8
"""Workers that a private Ray may start at once; it warns of four times as many alive. A road has
some twenty at most on two CPUs."""

_SCRATCH_ROOT = Path("/tmp")  # noqa: S108 - a longer path is too long for Ray's sockets


@contextlib.contextmanager
def ray_session(
    address: str | None = None,
    num_cpus: int | None = None,
    *,
    environment: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Give the block an initialised Ray and yield the cluster's address, HOST:PORT.

    An already initialised Ray is used as it is, and left running. Else `address`, or `RAY_ADDRESS`,
    names a running cluster to connect to; else a private instance is started and stopped again.

    Args:
        address: HOST:PORT of a cluster's GCS, `auto` for one started on this machine with
            `ray start`, `local` for a private one, or None.
        num_cpus: logical CPUs of a private instance; by default those of the machine, at least 2.
            A running cluster keeps its own number: see `require_cpus`.
        environment: what a private instance and all that runs in it is started with, where the
            environment does not say it already.

    Raises:
        ClusterError: the address is malformed or nothing usable answers there.
    """
    env = {
        "PATH": path_with_interpreter(os.environ.get("PATH", "")),
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # else `uv run` makes Ray build a venv per worker
        "RAY_USAGE_STATS_ENABLED": "0",
        # else SIGTERM prints addresses of Ray's C++; faulthandler still shows a crash's frames
        "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",
        # Ray Train's controller looks at its workers every 2 s by default, and until it has looked
        # `ray.train.report` waits: 0.2 s an epoch instead of 2.0 (Ray 2.60)
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": os.environ.get(
            "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2"
        ),
    }
    for name, value in (environment or {}).items():
        env[name] = os.environ.get(name, value)
    target = address or os.environ.get("RAY_ADDRESS") or "local"
    if target not in ("local", "auto"):
        check_address(target)
    use_configured_token()
    with contextlib.ExitStack() as stack:
        stack.enter_context(_environment(env))
        import ray

        if ray.is_initialized():
            yield ray.get_runtime_context().gcs_address
            return
        start = _private(num_cpus) if target == "local" else _connected(target)
        found = stack.enter_context(start)
        logger.debug("ray session at %s", found)
        yield found


def require_cpus(num_cpus: float, purpose: str, num_gpus: float = 0) -> None:
    """Check that the initialised Ray has `num_cpus` logical CPUs and `num_gpus` GPUs free.

    A stage that just ended gives its own back within a second or two, on a busy machine later, so
    the check looks again for 15 s before it refuses.

    Raises:
        ClusterError: the cluster is too small or too busy; without this check Ray would wait.
    """
    import ray

    # rounded as Ray counts: sums of fractions, as 3 * 0.1, come out a little above
    needed = {"CPU": round(num_cpus, 4), "GPU": round(num_gpus, 4)}
    total: Mapping[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    for kind, number in needed.items():
        if total.get(kind, 0) < number:
            raise ClusterError(
                f"{purpose} needs {number:g} {kind}s and the Ray cluster has "
                f"{total.get(kind, 0):g}; add nodes or lower the number of workers or their share"
            )
    deadline = time.monotonic() + CPU_WAIT_S
    while True:
        free: Mapping[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
        short = next((kind for kind in needed if free.get(kind, 0) < needed[kind]), None)
        if short is None:
            return
        if time.monotonic() > deadline:
            raise ClusterError(
                f"{purpose} needs {needed[short]:g} {short}s and {free.get(short, 0):g} of the Ray "
                f"cluster's {total[short]:g} are free; wait for or stop the other work there, or "
                "run without --address and RAY_ADDRESS for a private Ray"
            )
        time.sleep(0.2)


def dev_runtime_env() -> dict[str, Any]:
    """Runtime environment that ships the four packages as they lie here, over those installed.

    Raises:
        ClusterError: a package is not importable here.
    """
    folders = []
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise ClusterError(f"package {package!r} is not importable; install sonoray here")
        folders.append(str(Path(next(iter(spec.submodule_search_locations))).resolve()))
    return {"py_modules": folders}


def path_with_interpreter(path: str) -> str:
    """Prepend the running interpreter's folder to a PATH value, once."""
    # not resolved: a venv's python is a link, and its tools lie beside the link
    folder = str(Path(sys.executable).parent)
    return os.pathsep.join([folder, *(part for part in path.split(os.pathsep) if part != folder)])


def memory_limit_bytes() -> int:
    """Memory that this process may use: the machine's, or the container's where that is less."""
    limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # cgroup v2, v1
        with contextlib.suppress(OSError, ValueError):  # v2 writes "max" where there is no limit
            limit = min(limit, int((Path("/sys/fs/cgroup") / name).read_text()))
    return limit


def object_store_bytes() -> int:
    """Size of a private instance's object store."""
    return min(MAX_OBJECT_STORE_BYTES, int(memory_limit_bytes() * OBJECT_STORE_FRACTION))


@contextlib.contextmanager
def _private(num_cpus: int | None) -> Iterator[str]:
    """Start an instance of our own and stop it at the end."""
    import ray

    ensure_token_file()
    configured = os.environ.get("RAY_TMPDIR")
    port = _free_port()
    num_cpus = num_cpus or max(2, os.cpu_count() or 1)
    env = {
        "RAY_ADDRESS": f"127.0.0.1:{port}",
        "RAY_GCS_SERVER_PORT": str(port),
        # Ray warns of four workers a CPU. Most of ours only wait: controllers, loaders, replicas
        "RAY_worker_maximum_startup_concurrency": str(max(MIN_STARTING_WORKERS, num_cpus)),
        # Serve kills a proxy that is not ready in 5 s and starts another; a busy machine needs more
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": os.environ.get(
            "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60"
        ),
        # torch keeps compiled extensions per user: two environments would compile DeepSpeed's over
        # each other for ever
        "TORCH_EXTENSIONS_DIR": os.environ.get(
            "TORCH_EXTENSIONS_DIR", str(Path(sys.prefix) / "torch_extensions")
        ),
    }
    with contextlib.ExitStack() as stack:
        stack.enter_context(_environment(env))
        try:
            # Ray opens its own folder to everybody (0777), so it gets one inside of ours
            folder = configured or f"{stack.enter_context(scratch_folder(_SCRATCH_ROOT))}/ray"
            stack.callback(ray.shutdown, wait_for_processes=True)
            with lean_node(shows_logs=logger.isEnabledFor(logging.DEBUG)):
                _init(
                    address="local",
                    num_cpus=num_cpus,
                    object_store_memory=object_store_bytes(),
                    include_dashboard=False,
                    _temp_dir=folder,
                )
        except Exception as error:  # a node that is not up in 30 s is a bare Exception of Ray's
            raise ClusterError(
                f"a private Ray does not start ({first_line(error)}); run: sonoray doctor"
            ) from error
        del os.environ["RAY_GCS_SERVER_PORT"]  # a Ray started by a child needs its own
        yield env["RAY_ADDRESS"]


@contextlib.contextmanager
def _connected(address: str) -> Iterator[str]:
    """Connect to a running cluster and disconnect at the end."""
    import ray

    # in another image the folder does not exist, which PATH allows
    env_vars = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}${{PATH}}"}
    try:
        _init(address=address, runtime_env={"env_vars": env_vars})
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ClusterError(
            f"cannot join the Ray cluster at {address!r} ({first_line(error)}); check --address "
            "and RAY_ADDRESS, or leave both out for a private Ray"
        ) from error
    try:
        yield ray.get_runtime_context().gcs_address
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the block and put the old values back after it."""
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key, None)
            if value is not None:
                os.environ[key] = value


def _init(**options: Any) -> None:  # noqa: ANN401 - those of `ray.init`
    """Call `ray.init`, quiet unless debugging: what fails is raised, and said once.

    Below the level of Python, Ray's C++ core writes errors to stderr that are none, one for every
    actor of Ray Data; a level of its own silences it, but it announces that level on stderr while
    it starts, hence the detour of the descriptor.
    """
    import ray

    if logger.isEnabledFor(logging.DEBUG):
        ray.init(**options)
        return
    with _environment({"RAY_BACKEND_LOG_LEVEL": "fatal"}), _discarded_stderr():
        ray.init(logging_level=logging.ERROR, log_to_driver=False, **options)
    # below the loggers that the libraries configure when they are imported, which comes after this
    for name in ("ray.data._internal", "ray.data.exceptions"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    for name in ("ray.train.v2", "ray.serve"):
        logging.getLogger(name).setLevel(logging.WARNING)


@contextlib.contextmanager
def _discarded_stderr() -> Iterator[None]:
    """Send what the block writes to file descriptor 2 nowhere."""
    with Path(os.devnull).open("w") as nowhere:
        kept = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port
