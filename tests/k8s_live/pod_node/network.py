"""The node's network: a namespace and an address for each Pod, Services, policies and names.

Everything lies in the network namespace that the node was started in. A Pod has one veth pair and a
route; all traffic passes the node's forwarding, where the rules stand.
"""

import contextlib
import socket
import struct
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

from node_api import NodeApi, Object
from rules import Endpoint, Peer, ruleset

NODE_IP = "10.99.0.1"
DNS_IP = "169.254.20.10"
"""Where NodeLocal DNSCache listens, on the node."""
API_PORT = 6443
_GATEWAY = "169.254.1.1"
_SLICES = "/apis/discovery.k8s.io/v1/endpointslices"
_OWNER = "kubernetes.io/service-name"


def run(*words: str, given: str | None = None) -> None:
    """Run a command that must succeed."""
    done = subprocess.run(words, input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(words)}: {done.stderr.strip()}")


def set_up() -> None:
    """Give the node its addresses, before the API server starts."""
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "node", "type", "bridge")
    for address in (NODE_IP, DNS_IP):
        run("ip", "address", "add", f"{address}/32", "dev", "node")
    run("ip", "link", "set", "node", "up")
    run("ip", "route", "add", "default", "dev", "node")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    Path("/run/netns").mkdir(exist_ok=True)
    run("mount", "-t", "tmpfs", "none", "/run/netns")


class Network:
    """Addresses of Pods, and what is open to whom."""

    def __init__(self, api: NodeApi) -> None:
        self._api = api
        self._lock = threading.Lock()
        self._next = 1
        self._peers: dict[str, Peer] = {}
        self._rules = ""
        self._names: dict[str, list[str]] = {}

    def add(self, pod: Object) -> tuple[str, str]:
        """Make a Pod's network, closed by its policies from the start; namespace and address."""
        with self._lock:
            self._next += 1
            number = self._next
        name, ip = f"pod{number}", f"10.244.{number // 250}.{number % 250 + 2}"
        run("ip", "netns", "add", name)
        run("ip", "link", "add", f"v{number}", "type", "veth", "peer", "eth0", "netns", name)
        run("ip", "address", "add", f"{_GATEWAY}/32", "dev", f"v{number}")
        run("ip", "link", "set", f"v{number}", "up")
        run("ip", "route", "add", ip, "dev", f"v{number}")
        for words in (
            f"address add {ip}/32 dev eth0",
            "link set eth0 up",
            "link set lo up",
            f"route add {_GATEWAY} dev eth0",
            f"route add default via {_GATEWAY}",
        ):
            run("ip", "-n", name, *words.split())
        metadata = pod["metadata"]
        ports = [port for each in pod["spec"]["containers"] for port in each.get("ports") or []]
        self._peers[name] = Peer(
            ip=ip,
            namespace=metadata["namespace"],
            labels=metadata.get("labels") or {},
            ports={port["name"]: port["containerPort"] for port in ports if "name" in port},
        )
        self.refresh()
        return name, ip

    def remove(self, name: str) -> None:
        """Take a Pod's network away."""
        self._peers.pop(name, None)
        with contextlib.suppress(OSError):
            run("ip", "netns", "delete", name)

    def refresh(self) -> None:
        """Bring rules and names up to what the API server says."""
        namespaces = {
            each["metadata"]["name"]: each["metadata"].get("labels") or {}
            for each in self._api.items("/api/v1/namespaces")
        }
        policies = self._api.items("/apis/networking.k8s.io/v1/networkpolicies")
        services, slices = self._api.items("/api/v1/services"), self._api.items(_SLICES)
        with self._lock:
            rules = ruleset(
                list(self._peers.values()), namespaces, policies, _endpoints(services, slices)
            )
            if rules != self._rules:
                run("nft", "-f", "-", given=rules)
                self._rules = rules
        self._names = _names(services, slices)

    def serve_names(self) -> None:
        """Answer questions for names, for ever."""
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind((DNS_IP, 53))
        while True:
            question, client = server.recvfrom(1500)
            with contextlib.suppress(IndexError, struct.error, UnicodeError):
                server.sendto(_answer(question, self._names), client)


def _endpoints(services: Sequence[Object], slices: Sequence[Object]) -> list[Endpoint]:
    made = []
    for service in services:
        spec, metadata = service["spec"], service["metadata"]
        if spec.get("clusterIP", "None") == "None":
            continue
        if (metadata["namespace"], metadata["name"]) == ("default", "kubernetes"):
            behind = ((NODE_IP, API_PORT),)
            made.append(
                Endpoint(address=spec["clusterIP"], port=443, protocol="tcp", behind=behind)
            )
            continue
        own = [each for each in slices if _is_of(each, metadata)]
        for port in spec.get("ports") or []:
            behind = tuple(
                (address, target["port"])
                for each in own
                for target in each.get("ports") or []
                if (target.get("name") or "") == (port.get("name") or "")
                for address in _ready(each)
            )
            made.append(
                Endpoint(
                    address=spec["clusterIP"],
                    port=port["port"],
                    protocol=port.get("protocol", "TCP").lower(),
                    behind=behind,
                )
            )
    return made


def _names(services: Sequence[Object], slices: Sequence[Object]) -> dict[str, list[str]]:
    names = {}
    for service in services:
        metadata, address = service["metadata"], service["spec"].get("clusterIP", "None")
        addresses = [address]
        if address == "None":
            own = [each for each in slices if _is_of(each, metadata)]
            addresses = [ip for each in own for ip in _ready(each)]
        names[f"{metadata['name']}.{metadata['namespace']}.svc.cluster.local"] = addresses
    return {name: addresses for name, addresses in names.items() if addresses}


def _is_of(piece: Object, metadata: Object) -> bool:
    labels = piece["metadata"].get("labels") or {}
    place = piece["metadata"]["namespace"]
    return bool(place == metadata["namespace"] and labels.get(_OWNER) == metadata["name"])


def _ready(piece: Object) -> list[str]:
    return [
        each["addresses"][0]
        for each in piece.get("endpoints") or []
        if (each.get("conditions") or {}).get("ready") is not False
    ]


def _answer(question: bytes, names: dict[str, list[str]]) -> bytes:
    """A DNS answer: addresses of what is known, NXDOMAIN for the rest."""
    at, labels = 12, []
    while size := question[at]:
        labels.append(question[at + 1 : at + 1 + size].decode())
        at += 1 + size
    [kind] = struct.unpack("!H", question[at + 1 : at + 3])
    known = names.get(".".join(labels).lower())
    addresses = (known or []) if kind == 1 else []
    status = 0x8580 | (0 if known else 3)
    answer = question[:2] + struct.pack("!HHHHH", status, 1, len(addresses), 0, 0)
    answer += question[12 : at + 5]
    for address in addresses:
        answer += b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 5, 4) + socket.inet_aton(address)
    return answer


if __name__ == "__main__":
    set_up()
