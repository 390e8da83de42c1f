"""Which connections pass: real Pods' networks with nothing in them but listeners.

`python connections.py` reads JSON (Pods, namespaces, policies, Services, addresses of the node, and
tries) and writes which tries reached their port. It runs in a network namespace of its own.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from network import Network, run, set_up
from node_api import Object

_WAIT_S = "3"
_LISTEN = """
import socket, sys
held = [socket.create_server(("0.0.0.0", int(port))) for port in sys.argv[1:]]
print("listens", flush=True)
sys.stdin.read()
"""


class Given:
    """The objects of a cluster, without a cluster."""

    def __init__(self, objects: Mapping[str, list[Object]]) -> None:
        self._objects = objects

    def items(self, path: str) -> list[Object]:
        """The objects of a collection."""
        return self._objects.get(path.rpartition("/")[2], [])


def listening(name: str, ports: list[int]) -> Iterator[None]:
    """A process that listens in a Pod's network, or the node's own where the name is empty."""
    inside = ["ip", "netns", "exec", name] if name else []
    words = [*inside, sys.executable, "-S", "-c", _LISTEN, *map(str, ports)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(words, stdin=pipe, stdout=pipe)
    assert process.stdout is not None
    process.stdout.readline()
    yield
    process.kill()
    process.wait()


def main() -> None:
    """Build, try, tell."""
    given: dict[str, Any] = json.load(sys.stdin)
    set_up()
    for address in given["node_addresses"]:
        run("ip", "address", "add", f"{address}/32", "dev", "node")
    slices = given["objects"].pop("endpointslices")  # their addresses are not known yet
    network = Network(Given(given["objects"]))  # type: ignore[arg-type]
    names, addresses = {}, dict.fromkeys(given["node_addresses"], "")
    for pod in given["pods"]:
        label = pod["metadata"]["name"]
        names[label], addresses[label] = network.add(pod)
    for number, piece in enumerate(slices):
        [endpoint] = piece["endpoints"]
        endpoint["addresses"] = [addresses[endpoint["addresses"][0]]]
        addresses[f"service-{number}"] = given["objects"]["services"][number]["spec"]["clusterIP"]
    given["objects"]["endpointslices"] = slices
    network.refresh()
    held = [listening(name, given["ports"]) for name in ("", *names.values())]
    for each in held:
        next(each)
    tries = []
    for source, target, port in given["tries"]:
        address = addresses.get(target) or target
        connect = ["timeout", _WAIT_S, "bash", "-c", f"</dev/tcp/{address}/{port}"]
        tries.append(
            subprocess.Popen(
                ["ip", "netns", "exec", names[source], *connect], stderr=subprocess.DEVNULL
            )
        )
    json.dump([each.wait() == 0 for each in tries], sys.stdout)
    for each in held:
        next(each, None)


if __name__ == "__main__":
    main()
