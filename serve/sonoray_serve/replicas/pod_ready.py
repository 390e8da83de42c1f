"""An upgrade on Kubernetes without a gap: the application runs only once its Pods can be ready.

KubeRay's operator turns the service to a new cluster as soon as its applications run, not when its
Pods are ready. A worker's Pod is ready one period of its probe after Ray Serve's proxy on it
answers, and the proxy answers once the ingress runs, which is last of all. In these seconds the
service has no endpoint. So vision, which the ingress does not wait for, holds the application back.
"""

import http.client
import logging
import os
import tempfile
import time
from contextlib import closing
from pathlib import Path

logger = logging.getLogger(__name__)

VARIABLE = "SONORAY_POD_READY_AFTER_S"
"""Seconds from the proxy's answer to a ready Pod; absent where no Pod is."""
PROXY = ("127.0.0.1", 8000)
MARK = Path(tempfile.gettempdir()) / "sonoray-pod-is-ready"
"""Says that this Pod was ready once: a replica that comes later is not waited for."""
LONGEST_S = 600.0
"""For the ingress to come: where it does not, Ray Serve says why, and this is not to hide it."""
_POLL_S = 0.5


def wait_for_pod(
    proxy: tuple[str, int] = PROXY, longest_s: float = LONGEST_S, poll_s: float = _POLL_S
) -> None:
    """Wait until the proxy of this node answers, and then for its Pod's probe.

    Args:
        proxy: host and port.
        longest_s: after which it goes on all the same.
        poll_s: between two looks.
    """
    after_s = float(os.environ.get(VARIABLE, "0"))
    if after_s <= 0 or MARK.exists():
        return
    deadline = time.monotonic() + longest_s
    while not _answers(proxy):
        if time.monotonic() > deadline:
            logger.warning("no proxy answers at %s:%d; the service may have a gap", *proxy)
            return
        time.sleep(poll_s)
    time.sleep(after_s)
    MARK.touch()


def _answers(proxy: tuple[str, int]) -> bool:
    host, port = proxy
    with closing(http.client.HTTPConnection(host, port, timeout=2)) as connection:
        try:
            connection.request("GET", "/-/healthz")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
