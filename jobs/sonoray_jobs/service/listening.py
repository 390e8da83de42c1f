"""Where a service listens: whether it can, how this machine reaches it, and when it answers.

Only the standard library: a port is tried before anything heavy is imported or started.
"""

import socket
import time
import urllib.error
import urllib.request
from contextlib import suppress

from sonoray.errors import ServingError

HEALTH_TIMEOUT_S = 60.0
"""From the running application to the first answer on the port; a private Ray needs about 1 s."""


def check_port(host: str, port: int) -> None:
    """Make sure that the port can be listened on.

    Raises:
        ServingError: it is taken, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
            probe.bind((host, port))
    except (OSError, OverflowError) as error:
        raise ServingError(
            f"cannot listen on port {port} of {host!r} ({reason(error)}); stop what uses it or "
            "choose another with --port"
        ) from None


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def wait_healthy(url: str) -> None:
    """Wait until the service answers.

    Raises:
        ServingError: it does not.
    """
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + HEALTH_TIMEOUT_S
    while time.monotonic() < deadline:
        with suppress(urllib.error.URLError, OSError):
            direct.open(url, timeout=2.0).close()
            return
        time.sleep(0.2)
    raise ServingError(
        f"nothing healthy answers at {url} after {HEALTH_TIMEOUT_S:g} s; on a cluster run this on "
        "the head node, where Ray Serve listens, else see why with: sonoray --verbose serve"
    )


def reachable(host: str) -> str:
    """The host part of a URL by which this machine reaches a listening address."""
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not listened on
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def reason(error: BaseException) -> str:
    """What an exception says, in one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error) or type(error).__name__).strip().splitlines()[0]
