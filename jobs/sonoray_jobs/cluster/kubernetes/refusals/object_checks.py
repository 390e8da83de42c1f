"""What is refused between objects and in the small ones: references, policies, claims, budgets."""

import ipaddress
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from sonoray_jobs.cluster.kubernetes.manifests.naming import Object
from sonoray_jobs.cluster.kubernetes.quantity import to_number
from sonoray_jobs.cluster.kubernetes.refusals.walk import cluster_of, entries, inside, pods_of

_ACCESS = ("ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod")
_PLACES = ("configMap", "persistentVolumeClaim")
_CRON = re.compile(r"[\d*/,\-]+( [\d*/,\-]+){4}")


def check_small(made: Object) -> Iterator[str]:
    """Say what is wrong with an object that is no workload."""
    kind, spec = made.get("kind"), inside(made, "spec")
    if kind == "NetworkPolicy":
        yield from _policy(spec)
    elif kind == "PersistentVolumeClaim":
        yield from _claim(spec)
    elif kind == "CronJob" and not _CRON.fullmatch(str(spec.get("schedule"))):
        yield f"schedule {spec.get('schedule')!r}; five fields, as in 0 2 * * *"
    elif kind == "Secret" and (made.get("data") or made.get("stringData")):
        yield "holds a secret in a manifest; make it with kubectl create secret"


def check_together(objects: Sequence[Object]) -> Iterator[str]:
    """Say what does not fit together."""
    names = Counter(
        (each.get("kind"), inside(each, "metadata").get("namespace"), _name(each))
        for each in objects
    )
    for (kind, _, name), number in names.items():
        if number > 1:
            yield f"{kind}/{name}: stands there {number} times; rename or remove one"
    yield from _references(objects)
    yield from _dns(objects)
    yield from _budgets(objects)


def _policy(spec: Object) -> Iterator[str]:
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        for rule in entries(spec.get(direction)):
            for port in entries(rule.get("ports")):
                number = port.get("port")
                if isinstance(number, int) and not 1 <= number <= 65_535:
                    yield f"{direction} names the port {number}; 1 to 65535"
            for peer in entries(rule.get(peers)):
                if not peer or peer == {"namespaceSelector": {}}:
                    yield f"{direction} lets everybody through; name Pods or addresses"
                block = inside(peer, "ipBlock").get("cidr")
                if block is not None and not _is_network(block):
                    yield f"{direction} names the network {block!r}; write it like 10.20.0.0/16"
                if "podSelector" in peer and peer.get("namespaceSelector") == {}:
                    yield f"{direction} trusts a label of any namespace; name the namespace"


def _claim(spec: Object) -> Iterator[str]:
    modes = spec.get("accessModes") or []
    if bad := [mode for mode in modes if mode not in _ACCESS]:
        yield f"access mode {bad[0]!r}; choose one of {', '.join(_ACCESS)}"
    size = inside(spec, "resources", "requests").get("storage")
    try:
        to_number(size)
    except ValueError as error:
        yield f"storage: {error}"


def _references(objects: Sequence[Object]) -> Iterator[str]:
    """What a Pod mounts and no object of the set is."""
    there = {(each.get("kind"), _name(each)) for each in objects}
    kinds = {
        "configMap": ("ConfigMap", "name"),
        "persistentVolumeClaim": ("PersistentVolumeClaim", "claimName"),
    }
    accounts = {name for kind, name in there if kind == "ServiceAccount"}
    classes = {name for kind, name in there if kind == "PriorityClass"}
    for each in objects:
        label = f"{each.get('kind')}/{_name(each)}"
        for place in pods_of(each):
            for volume in entries(place.spec.get("volumes")):
                for source in _PLACES:
                    kind, field = kinds[source]
                    named = inside(volume, source).get(field)
                    if named and (kind, named) not in there:
                        yield f"{label}: {place.where} mounts {kind}/{named}, which is not there"
            account = place.spec.get("serviceAccountName")
            if accounts and account and account not in accounts:
                yield f"{label}: {place.where} has the account {account!r}, which is not there"
            priority = place.spec.get("priorityClassName")
            if classes and priority and priority not in classes:
                yield f"{label}: {place.where} has the priority {priority!r}, which is not there"


def _dns(objects: Sequence[Object]) -> Iterator[str]:
    policies = [inside(each, "spec") for each in objects if each.get("kind") == "NetworkPolicy"]
    denied = [
        spec
        for spec in policies
        if not spec.get("podSelector") and "Egress" in spec.get("policyTypes", [])
    ]
    ports = {
        port.get("port")
        for spec in denied
        for rule in entries(spec.get("egress"))
        for port in entries(rule.get("ports"))
    }
    if denied and not ports & {53, 5353}:
        yield (
            "NetworkPolicy: egress is denied and no policy lets DNS through, so that no worker "
            "would find its head; allow port 53"
        )


def _budgets(objects: Sequence[Object]) -> Iterator[str]:
    for each in objects:
        if each.get("kind") != "PodDisruptionBudget":
            continue
        spec = inside(each, "spec")
        wanted = inside(spec, "selector", "matchLabels")
        numbers = [
            place.number
            for other in objects
            for place in pods_of(other)
            if {**place.labels, **_given(other, place.where)}.items() >= wanted.items()
        ]
        if not numbers:
            yield f"PodDisruptionBudget/{_name(each)}: selects no Pod; change its labels"
        least = spec.get("minAvailable")
        if numbers and isinstance(least, int) and least >= sum(numbers):
            yield (
                f"PodDisruptionBudget/{_name(each)}: minAvailable {least} of {sum(numbers)} Pods "
                "lets no node be drained; lower it"
            )


def _given(made: Object, where: str) -> dict[str, str]:
    """Labels that KubeRay adds to its Pods."""
    if cluster_of(made) is None or where == "the submitter":
        return {}
    kind = "head" if where == "the head" else "worker"
    return {"ray.io/node-type": kind, "ray.io/is-ray-node": "yes"}


def _is_network(block: Any) -> bool:  # noqa: ANN401 - YAML
    try:
        ipaddress.ip_network(block)
    except ValueError:
        return False
    return True


def _name(made: Object) -> str:
    return str(inside(made, "metadata").get("name"))
