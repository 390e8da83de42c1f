"""Services and network policies as one set of nftables rules.

A packet between Pods passes two chains: that of the sender's egress and that of the receiver's
ingress; either one drops what no policy allows. Answers of a connection that was allowed pass. The
node itself (probes) is not subject to policies. Services are translated before the policies look,
as kube-proxy does.
"""

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """A Pod as policies see it."""

    ip: str
    namespace: str
    labels: dict[str, str]
    ports: dict[str, int] = field(default_factory=dict)
    """Named ports of its containers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """An address and port of a Service, and what stands behind it."""

    address: str
    port: int
    protocol: str
    behind: tuple[tuple[str, int], ...]


def ruleset(
    peers: Sequence[Peer],
    namespaces: Mapping[str, dict[str, str]],
    policies: Sequence[Object],
    endpoints: Sequence[Endpoint],
) -> str:
    """The rules for `nft -f`, which replaces the ones before in one step.

    Args:
        peers: the Pods of this node.
        namespaces: labels of each namespace.
        policies: all NetworkPolicy objects.
        endpoints: all addresses of Services.
    """
    chains: list[str] = []
    verdicts: dict[str, list[str]] = {"Ingress": [], "Egress": []}
    for number, peer in enumerate(peers):
        for direction, sides in verdicts.items():
            applying = [each for each in policies if _applies(each, peer, direction)]
            if not applying:
                continue
            name = f"{direction.lower()}{number}"
            lines = [
                line
                for policy in applying
                for rule in policy["spec"].get(direction.lower()) or []
                for line in _allowed(rule, direction, peer, policy, peers, namespaces)
            ]
            chains.append(_chain(name, [*lines, "counter drop"]))
            sides.append(f"{peer.ip} : jump {name}")
    out = f"ip saddr vmap {{ {', '.join(verdicts['Egress'])} }}" if verdicts["Egress"] else ""
    into = f"ip daddr vmap {{ {', '.join(verdicts['Ingress'])} }}" if verdicts["Ingress"] else ""
    known = "ct state established,related accept"
    translated = [_translated(each) for each in endpoints if each.behind]
    refused = [
        f"ip daddr {each.address} {each.protocol} dport {each.port} reject"
        for each in endpoints
        if not each.behind
    ]
    body = [
        *chains,
        _chain("forwarded", [known, *refused, out, into], "filter hook forward priority 0"),
        _chain("to_node", [known, out], "filter hook input priority 0"),
        _chain("services", translated, "nat hook prerouting priority dstnat"),
        _chain("services_of_node", translated, "nat hook output priority -100"),
    ]
    return "table inet pods\ndelete table inet pods\ntable inet pods {\n" + "".join(body) + "}\n"


def selects(selector: Object, labels: Mapping[str, str]) -> bool:
    """Whether a label selector takes an object."""
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    for each in selector.get("matchExpressions") or []:
        key, operator, values = each["key"], each["operator"], each.get("values") or []
        holds = {
            "In": labels.get(key) in values,
            "NotIn": labels.get(key) not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }[operator]
        if not holds:
            return False
    return True


def _applies(policy: Object, peer: Peer, direction: str) -> bool:
    return (
        policy["metadata"]["namespace"] == peer.namespace
        and direction in policy["spec"]["policyTypes"]
        and selects(policy["spec"].get("podSelector") or {}, peer.labels)
    )


def _allowed(
    rule: Object,
    direction: str,
    subject: Peer,
    policy: Object,
    peers: Sequence[Peer],
    namespaces: Mapping[str, dict[str, str]],
) -> list[str]:
    """Lines that let a rule's packets pass."""
    given = rule.get("from" if direction == "Ingress" else "to")
    address = "saddr" if direction == "Ingress" else "daddr"
    place = policy["metadata"]["namespace"]
    taken: list[tuple[str, Peer | None]] = []
    if not given:
        taken = [("", None)]
    for each in given or []:
        if block := each.get("ipBlock"):
            less = "".join(f"ip {address} != {cidr} " for cidr in block.get("except") or [])
            taken.append((f"ip {address} {ipaddress.ip_network(block['cidr'])} {less}", None))
            continue
        taken += [
            (f"ip {address} {peer.ip} ", peer)
            for peer in peers
            if _is_peer(each, peer, place, namespaces)
        ]
    lines = []
    for match, peer in taken:
        target = subject if direction == "Ingress" else peer
        ports = [_port(each, target) for each in rule.get("ports") or []]
        lines += [f"{match}{port} return" for port in ports] if ports else [f"{match}return"]
    return lines


def _is_peer(
    given: Object, peer: Peer, place: str, namespaces: Mapping[str, dict[str, str]]
) -> bool:
    if "namespaceSelector" in given:
        if not selects(given["namespaceSelector"], namespaces.get(peer.namespace, {})):
            return False
    elif peer.namespace != place:
        return False
    return selects(given.get("podSelector") or {}, peer.labels)


def _port(given: Object, target: Peer | None) -> str:
    protocol, port = str(given.get("protocol", "TCP")).lower(), given.get("port")
    if port is None:
        return f"meta l4proto {protocol}"
    if isinstance(port, str):
        port = target.ports.get(port, 0) if target else 0
    last = f"-{given['endPort']}" if "endPort" in given else ""
    return f"{protocol} dport {port}{last}"


def _translated(endpoint: Endpoint) -> str:
    match = f"ip daddr {endpoint.address} {endpoint.protocol} dport {endpoint.port}"
    if len(endpoint.behind) == 1:
        [(address, port)] = endpoint.behind
        return f"{match} dnat ip to {address}:{port}"
    choice = ", ".join(
        f"{number} : {address} . {port}" for number, (address, port) in enumerate(endpoint.behind)
    )
    return f"{match} dnat ip to numgen random mod {len(endpoint.behind)} map {{ {choice} }}"


def _chain(name: str, lines: Sequence[str], kind: str = "") -> str:
    head = f"    type {kind}; policy accept;\n" if kind else ""
    return f"  chain {name} {{\n{head}" + "".join(f"    {x}\n" for x in lines if x) + "  }\n"
