"""The address of a Ray cluster, refused within seconds where nothing usable answers.

Ray itself needs 80 s to give up on a wrong one. Two probes come first: an HTTP/2 greeting to the
port (gRPC answers it at once) and a look for a raylet on this machine. gRPC's own
`channel_ready_future` tells a port that refuses from one that is silent only by its timeout, and
costs the import of grpc.
"""

import os
import socket
from pathlib import Path

from sonoray.errors import ClusterError

PROBE_TIMEOUT_S = 4.0


_HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))


_HTTP2_SETTINGS_FRAME = 4


def check_address(address: str) -> None:
    """Refuse within seconds what `ray.init` would wait for.

    Raises:
        ClusterError: `address` is not HOST:PORT, no gRPC server answers there within 4 s, or no
            node of a Ray cluster runs on this machine.
    """
    if "://" in address:
        raise ClusterError(
            f"Ray address {address!r} is not HOST:PORT of a cluster's GCS (port 6379 by default); "
            "to run from outside the cluster use: sonoray submit JOB --address http://HOST:8265"
        )
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdigit()):
        raise ClusterError(f"Ray address {address!r} is not HOST:PORT; write it like 10.0.0.5:6379")
    advice = "check --address and RAY_ADDRESS, or leave both out for a private Ray"
    try:
        with socket.create_connection((host.strip("[]"), int(port)), PROBE_TIMEOUT_S) as connection:
            connection.settimeout(PROBE_TIMEOUT_S)
            if os.environ.get("RAY_USE_TLS", "0") not in ("1", "true"):
                connection.sendall(_HTTP2_GREETING)
                answer = connection.recv(9)
                if len(answer) < 4 or answer[3] != _HTTP2_SETTINGS_FRAME:
                    raise ClusterError(f"no Ray GCS answers at {address!r}; {advice}")
    except (OSError, OverflowError) as error:
        reason = first_line(error)
        raise ClusterError(f"no Ray cluster answers at {address!r} ({reason}); {advice}") from None
    if Path("/proc/self/cmdline").exists() and not local_ray_addresses():
        raise ClusterError(
            f"no node of the Ray cluster at {address!r} runs on this machine, and a driver needs "
            "one; run the job inside with: sonoray submit JOB --address http://HOST:8265"
        )


def local_ray_addresses() -> set[str]:
    """GCS addresses of all Ray nodes that run on this machine (empty where there is no /proc)."""
    addresses = set()
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # the process ended, or belongs to somebody else
            continue
        if Path(words[0]).name == "raylet":
            flags = (word.partition("=") for word in words)
            addresses |= {value for key, _, value in flags if key.endswith("-gcs-address")}
    return addresses


def first_line(error: BaseException) -> str:
    """First line of an exception's text, or its kind where it has none."""
    return (str(error) or type(error).__name__).strip().splitlines()[0]
