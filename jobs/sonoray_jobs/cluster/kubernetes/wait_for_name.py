"""Wait for the head's name and its control store; give up with a reason where no DNS answers.

Runs first in every worker Pod (`python -m sonoray_jobs.cluster.kubernetes.wait_for_name`). KubeRay
waits for the control store right after it, for ever and without a word: where a network policy
forbids DNS, or none answers, the Pod would stand in `Init` for good. A name that is not known yet
is no failure, since it appears when the head is ready.

KubeRay also sleeps for 5 s after each look, and each look takes seconds of Ray's imports, which the
head that comes up would need. So the store's port is looked at here, which costs nothing, and
KubeRay's first look finds it open.
"""

import os
import socket
import sys
import time

NAME_VARIABLE = "FQ_RAY_IP"
"""The head's name, which KubeRay sets."""
SILENCE_S = 120.0
"""How long no DNS server may answer."""
POLL_S = 0.5
STORE_PORT = 6379
"""Of the control store, as KubeRay has it unless it is given."""
STORE_S = 120.0
"""How long its port is looked at; after that KubeRay's waiting goes on."""


def wait(name: str, *, silence_s: float = SILENCE_S, poll_s: float = POLL_S) -> str:
    """Return nothing once the name resolves, and what is wrong where nobody answers.

    Args:
        name: what is looked up.
        silence_s: how long no server may answer.
        poll_s: between two looks.
    """
    heard = time.monotonic()
    while True:
        try:
            socket.getaddrinfo(name, None)
        except socket.gaierror as error:
            if error.errno != socket.EAI_AGAIN:  # a server has answered: it is not there yet
                heard = time.monotonic()
        else:
            return ""
        if time.monotonic() - heard > silence_s:
            return (
                f"no DNS server has answered for {name} in {silence_s:g} s; check that the network "
                "policy allow-dns fits the cluster's DNS (network.dns of the site file)"
            )
        time.sleep(poll_s)


def wait_for_store(
    name: str, *, port: int = STORE_PORT, within_s: float = STORE_S, poll_s: float = POLL_S
) -> bool:
    """Return whether something listens at the port within the time.

    Args:
        name: the head's.
        port: of its control store.
        within_s: how long it is looked for.
        poll_s: between two looks.
    """
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        try:
            socket.create_connection((name, port), timeout=2).close()
        except OSError:
            time.sleep(poll_s)
        else:
            return True
    return False


def main() -> None:
    """Wait for the head of this Pod's cluster."""
    name = os.environ[NAME_VARIABLE]
    if problem := wait(name):
        print(problem, file=sys.stderr)  # noqa: T201 - the Pod's termination message
        raise SystemExit(1)
    wait_for_store(name)


if __name__ == "__main__":
    main()
