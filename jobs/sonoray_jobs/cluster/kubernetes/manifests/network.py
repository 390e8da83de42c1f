"""Network policies: nothing in, nothing out, then what each part needs, by address and port.

Probes of the kubelet are not subject to policies. Ray Pods of one part speak with their own part
alone, so that the service, which faces the network, reaches no job.
"""

from collections.abc import Iterable, Sequence

from sonoray_jobs.cluster.kubernetes.manifests.naming import (
    MLFLOW,
    PART_LABEL,
    SUBMITTER,
    Object,
    metadata,
)
from sonoray_jobs.cluster.kubernetes.site import Site

RAY = {"ray.io/is-ray-node": "yes"}
DASHBOARD_PORT, SERVE_PORT, MLFLOW_PORT = 8265, 8000, 5000
METRICS_PORTS = (8080, 44217, 44227)
"""Ray's own, the autoscaler's, the dashboard's."""
OPERATOR = {"app.kubernetes.io/component": "kuberay-operator"}
MIGRATION = {"app.kubernetes.io/name": "mlflow-migrate"}
SERVER = {"app.kubernetes.io/name": MLFLOW}
PARTS = ("cluster", "job", "service")


def network_policies(site: Site) -> list[Object]:
    """All policies of the namespace."""
    policies = [
        _policy(site, "deny-all", {}, ingress=[], egress=[]),
        _policy(site, "allow-dns", {}, egress=_dns(site)),
        *(_ray_nodes(site, part) for part in PARTS),
        _policy(
            site,
            "submitter",
            SUBMITTER,
            egress=[_rule("to", [_pods({**RAY, PART_LABEL: part}) for part in PARTS[:2]], [8265])],
        ),
        _mlflow(site),
    ]
    if egress := _data_egress(site):
        policies += [
            _policy(site, f"{part}-data", {**RAY, PART_LABEL: part}, egress=egress)
            for part in PARTS[:2]
        ]
    scaling = [
        {**RAY, PART_LABEL: part, "ray.io/node-type": "head"} for part in ("cluster", "service")
    ]
    policies += [
        _policy(site, f"{labels[PART_LABEL]}-autoscaler", labels, egress=[_api_server(site)])
        for labels in scaling
    ]
    if site.service.enabled:
        policies += _service(site)
    if site.mlflow.postgres_secret:
        rules = [
            _rule("to", _blocks(site.mlflow.postgres_cidrs), [site.mlflow.postgres_port]),
            _rule("to", [_pods(SERVER)], [MLFLOW_PORT]),
        ]
        policies.append(_policy(site, "mlflow-migrate", MIGRATION, egress=rules))
    return policies


def _ray_nodes(site: Site, part: str) -> Object:
    own = _pods({**RAY, PART_LABEL: part})
    operator_ports = [DASHBOARD_PORT, *([SERVE_PORT] if part == "service" else [])]
    ingress: list[Object] = [
        {"from": [own]},
        _rule("from", [_elsewhere(site.network.operator_namespace, OPERATOR)], operator_ports),
    ]
    if part != "service":
        ingress.append(_rule("from", [_pods(SUBMITTER)], [DASHBOARD_PORT]))
    ingress += _from_monitoring(site, METRICS_PORTS)
    egress: list[Object] = [{"to": [own]}, _rule("to", [_pods(SERVER)], [MLFLOW_PORT])]
    return _policy(site, f"{part}-nodes", {**RAY, PART_LABEL: part}, ingress=ingress, egress=egress)


def _service(site: Site) -> list[Object]:
    policies = []
    clients = [
        {
            "namespaceSelector": {"matchLabels": client.namespace},
            "podSelector": {"matchLabels": client.pods},
        }
        for client in site.network.clients
    ]
    if clients:
        policies.append(
            _policy(
                site,
                "service-clients",
                {"ray.io/serve": "true", PART_LABEL: "service"},
                ingress=[_rule("from", clients, [SERVE_PORT])],
            )
        )
    if site.service.replicas.dicomweb:
        rule = _rule("to", _blocks(site.pacs.cidrs), [site.pacs.port])
        policies.append(
            _policy(site, "service-pacs", {**RAY, PART_LABEL: "service"}, egress=[rule])
        )
    redis = site.service.redis
    if redis.address:
        rule = _rule("to", _blocks(redis.cidrs), [int(redis.address.rpartition(":")[2])])
        policies.append(
            _policy(site, "service-redis", {**RAY, PART_LABEL: "service"}, egress=[rule])
        )
        cleanup = {"ray.io/node-type": "redis-cleanup"}
        policies.append(_policy(site, "redis-cleanup", cleanup, egress=[rule]))
    return policies


def _mlflow(site: Site) -> Object:
    peers = [_pods({**RAY, PART_LABEL: part}) for part in PARTS]
    if site.mlflow.accounts_secret:
        peers.append(_pods(MIGRATION))
    ingress = [_rule("from", peers, [MLFLOW_PORT]), *_from_monitoring(site, [MLFLOW_PORT])]
    egress = []
    if site.mlflow.postgres_secret:
        egress = [
            _rule("to", _blocks(site.mlflow.postgres_cidrs), [site.mlflow.postgres_port]),
            _rule("to", _blocks(site.object_store.cidrs), [site.object_store.port]),
        ]
    return _policy(site, MLFLOW, SERVER, ingress=ingress, egress=egress)


def _data_egress(site: Site) -> list[Object]:
    rules = []
    if site.object_store.endpoint:
        rules.append(_rule("to", _blocks(site.object_store.cidrs), [site.object_store.port]))
    if site.pacs.url:
        rules.append(_rule("to", _blocks(site.pacs.cidrs), [site.pacs.port]))
    return rules


def _dns(site: Site) -> list[Object]:
    ways = {
        "kube-dns": (_elsewhere("kube-system", {"k8s-app": "kube-dns"}), 53),
        "node-local": ({"ipBlock": {"cidr": "169.254.20.10/32"}}, 53),
        "openshift": (
            _elsewhere("openshift-dns", {"dns.operator.openshift.io/daemonset-dns": "default"}),
            5353,
        ),
    }
    return [
        {
            "to": [peer],
            "ports": [{"port": port, "protocol": protocol} for protocol in ("UDP", "TCP")],
        }
        for peer, port in map(ways.__getitem__, site.network.dns)
    ]


def _api_server(site: Site) -> Object:
    rule: Object = {"ports": [{"port": port, "protocol": "TCP"} for port in (443, 6443)]}
    if site.network.api_server_cidrs:
        rule = {"to": _blocks(site.network.api_server_cidrs), **rule}
    return rule


def _from_monitoring(site: Site, ports: Sequence[int]) -> list[Object]:
    if not site.monitoring.enabled:
        return []
    name = {"kubernetes.io/metadata.name": site.network.monitoring_namespace}
    return [_rule("from", [{"namespaceSelector": {"matchLabels": name}}], ports)]


def _policy(
    site: Site,
    name: str,
    labels: dict[str, str],
    *,
    ingress: list[Object] | None = None,
    egress: list[Object] | None = None,
) -> Object:
    """A policy; a direction that is None stays as it is, an empty one is denied."""
    spec: Object = {"podSelector": {"matchLabels": labels} if labels else {}}
    directions = {"Ingress": ingress, "Egress": egress}
    spec["policyTypes"] = [key for key, rules in directions.items() if rules is not None]
    spec |= {key.lower(): rules for key, rules in directions.items() if rules}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(site, name, "platform"),
        "spec": spec,
    }


def _rule(direction: str, peers: list[Object], ports: Sequence[int]) -> Object:
    return {direction: peers, "ports": [{"port": port, "protocol": "TCP"} for port in ports]}


def _pods(labels: dict[str, str]) -> Object:
    return {"podSelector": {"matchLabels": labels}}


def _elsewhere(namespace: str, labels: dict[str, str]) -> Object:
    """Pods with these labels in a namespace that is named: a label alone anybody could set."""
    return {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "podSelector": {"matchLabels": labels},
    }


def _blocks(cidrs: Iterable[str]) -> list[Object]:
    return [{"ipBlock": {"cidr": cidr}} for cidr in cidrs]
