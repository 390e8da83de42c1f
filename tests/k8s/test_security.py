"""Who may do what: Pod security, tokens, secrets, volumes, network."""

from typing import Any

import pytest

from sonoray_jobs.cluster.kubernetes.manifests.naming import AUTOSCALER_ACCOUNT
from sonoray_jobs.cluster.kubernetes.manifests.pods import IDENTITY_FOLDER

RAY = {"ray.io/is-ray-node": "yes"}


def pod_labels(part: str, **more: str) -> dict[str, str]:
    return {**RAY, "sonoray.io/part": part, **more}


def test_no_container_of_ray_has_the_token_of_the_api(manifests: Any) -> None:
    for name, cluster in manifests.clusters():
        head = cluster["headGroupSpec"]["template"]["spec"]
        assert head["automountServiceAccountToken"] is False
        for template in (head, *(g["template"]["spec"] for g in cluster["workerGroupSpecs"])):
            for container in template["containers"]:
                mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
                assert not [path for path in mounts if "serviceaccount" in path], name
        scales = cluster.get("enableInTreeAutoscaling", False)
        assert (head["serviceAccountName"] == AUTOSCALER_ACCOUNT) == scales
        if scales:
            mounts = cluster["autoscalerOptions"]["volumeMounts"]
            assert [mount for mount in mounts if "serviceaccount" in mount["mountPath"]]


def test_jobs_do_not_scale_and_what_stands_does(manifests: Any) -> None:
    for made in manifests.objects:
        if made["kind"] == "RayJob":
            assert "enableInTreeAutoscaling" not in made["spec"]["rayClusterSpec"]
        if made["kind"] == "RayCluster":
            assert made["spec"]["enableInTreeAutoscaling"] is True
            assert made["spec"]["upgradeStrategy"] == {"type": "Recreate"}


def test_what_faces_the_network_sees_neither_workspace_nor_identity_key(production: Any) -> None:
    seen = {}
    for made, place in production.pods():
        volumes = place.spec["volumes"]
        claims = [
            v["persistentVolumeClaim"]["claimName"] for v in volumes if "persistentVolumeClaim" in v
        ]
        secrets = [v["secret"]["secretName"] for v in volumes if "secret" in v]
        seen.setdefault(made["kind"], []).append((claims, secrets))
    identity = production.site.identity_secret
    assert identity
    for claims, secrets in seen["RayService"]:
        assert claims == []
        assert identity not in secrets
    assert any(identity in secrets for _, secrets in seen["RayJob"])
    assert IDENTITY_FOLDER not in str(production.only("RayService"))


def test_only_paths_that_are_written_are_writable(manifests: Any) -> None:
    for _, place in manifests.pods():
        for container in place.spec["containers"]:
            for mount in container["volumeMounts"]:
                if mount["mountPath"] not in ("/tmp", "/workspace", "/models", "/mlflow"):
                    assert mount["readOnly"] is True, mount


def test_no_secret_lies_in_a_manifest(manifests: Any) -> None:
    assert not manifests.of_kind("Secret")


def test_jobs_write_to_mlflow_and_the_service_only_reads(production: Any) -> None:
    users = {}
    for made, place in production.pods():
        for container in place.spec["containers"]:
            for item in container.get("env", []):
                if item["name"] == "MLFLOW_TRACKING_USERNAME":
                    users.setdefault(made["kind"], set()).add(item["value"])
    assert users == {"RayCluster": {"writer"}, "RayService": {"reader"}, "RayJob": {"writer"}}


def test_serve_workers_lie_on_different_nodes_and_survive_a_drain(production: Any) -> None:
    service = production.only("RayService")["spec"]["rayClusterConfig"]
    [group] = service["workerGroupSpecs"]
    assert group["minReplicas"] >= 2
    [host, _zone] = group["template"]["spec"]["topologySpreadConstraints"]
    assert host["whenUnsatisfiable"] == "DoNotSchedule"
    budgets = {each["metadata"]["name"]: each for each in production.of_kind("PodDisruptionBudget")}
    # the owner has no scale subresource, of which maxUnavailable would be counted
    assert budgets["llava-ultra"]["spec"]["minAvailable"] == group["minReplicas"] - 1
    assert "maxUnavailable" not in budgets["llava-ultra"]["spec"]
    assert service["gcsFaultToleranceOptions"]["redisAddress"]
    args = production.site.service.replicas
    assert min(each.min_replicas for each in (args.ingress, args.vision, args.engine)) >= 2


def test_every_container_says_how_much_local_disk_it_may_fill(manifests: Any) -> None:
    for _, place in manifests.pods():
        for container in place.spec["containers"]:
            assert "ephemeral-storage" in container["resources"]["limits"]


# network


def test_network_lets_through_what_each_part_needs_and_no_more(production: Any) -> None:
    allows = Network(production)
    mlflow = {"app.kubernetes.io/name": "mlflow"}
    submitter = {"sonoray.io/role": "submitter"}
    cluster, job = pod_labels("cluster"), pod_labels("job")
    service = pod_labels("service", **{"ray.io/serve": "true"})
    assert allows(job, job, 6379)
    assert allows(job, mlflow, 5000)
    assert allows(service, mlflow, 5000)
    assert allows(submitter, job, 8265)
    assert allows(submitter, cluster, 8265)
    for source, target, port in (
        (service, job, 6379),
        (service, cluster, 8265),
        (job, service, 8000),
        (submitter, job, 6379),
        (submitter, mlflow, 5000),
        (submitter, service, 8265),
        (mlflow, job, 8265),
        ({}, service, 8000),
        ({}, job, 8265),
        ({"ray.io/is-ray-node": "yes"}, job, 6379),
    ):
        assert not allows(source, target, port), (source, target, port)


def test_who_comes_from_elsewhere_is_named_by_namespace_and_by_pod(production: Any) -> None:
    operator = {"app.kubernetes.io/component": "kuberay-operator"}
    gateway = {"app.kubernetes.io/name": "ingress-nginx"}
    allows = Network(production)
    service = pod_labels("service", **{"ray.io/serve": "true"})
    assert allows.from_outside("kuberay-system", operator, pod_labels("job"), 8265)
    assert allows.from_outside("kuberay-system", operator, service, 8000)
    assert not allows.from_outside("elsewhere", operator, pod_labels("job"), 8265)
    assert not allows.from_outside("kuberay-system", {}, pod_labels("job"), 8265)
    assert allows.from_outside("ingress-nginx", gateway, service, 8000)
    assert not allows.from_outside("ingress-nginx", {}, service, 8000)
    assert not allows.from_outside("ingress-nginx", gateway, service, 8265)
    assert allows.from_outside("monitoring", {}, service, 8080)
    assert not allows.from_outside("monitoring", {}, service, 8265)


@pytest.mark.parametrize(
    ("labels", "address", "port"),
    [
        ({"app.kubernetes.io/name": "mlflow"}, "192.0.2.17/32", 5432),
        ({"app.kubernetes.io/name": "mlflow"}, "192.0.2.18/32", 443),
        (pod_labels("job"), "192.0.2.19/32", 443),
        (pod_labels("cluster"), "192.0.2.19/32", 443),
        (pod_labels("service"), "192.0.2.16/32", 6379),
        (pod_labels("service", **{"ray.io/node-type": "head"}), "192.0.2.1/32", 6443),
    ],
)
def test_what_lies_outside_is_reached_by_who_needs_it(
    production: Any, labels: dict[str, str], address: str, port: int
) -> None:
    allows = Network(production)
    assert allows.to_address(labels, address, port)
    assert not allows.to_address(labels, "198.51.100.7/32", port)


def test_the_service_reaches_no_archive_and_no_object_store(production: Any) -> None:
    allows = Network(production)
    for address in ("192.0.2.17/32", "192.0.2.18/32", "192.0.2.19/32"):
        for port in (443, 5432):
            assert not allows.to_address(pod_labels("service"), address, port)


class Network:
    """The policies of a site, read as the network plugin reads them."""

    def __init__(self, manifests: Any) -> None:
        self.specs = [each["spec"] for each in manifests.of_kind("NetworkPolicy")]

    def __call__(self, source: dict[str, str], target: dict[str, str], port: int) -> bool:
        """From Pod to Pod of the namespace."""

        def is_target(peer: Any, labels: dict[str, str]) -> bool:
            return "podSelector" in peer and "namespaceSelector" not in peer and fits(peer, labels)

        out = self._rules(source, "egress")
        into = self._rules(target, "ingress")
        return any(
            any(is_target(peer, target) for peer in rule["to"]) and on(rule, port)
            for rule in out
            if "to" in rule
        ) and any(
            any(is_target(peer, source) for peer in rule["from"]) and on(rule, port)
            for rule in into
        )

    def from_outside(
        self, namespace: str, source: dict[str, str], target: dict[str, str], port: int
    ) -> bool:
        names = {"kubernetes.io/metadata.name": namespace}
        return any(
            on(rule, port)
            and any(
                "namespaceSelector" in peer
                and peer["namespaceSelector"]["matchLabels"].items() <= names.items()
                and ("podSelector" not in peer or fits(peer, source))
                for peer in rule["from"]
            )
            for rule in self._rules(target, "ingress")
        )

    def to_address(self, source: dict[str, str], address: str, port: int) -> bool:
        return any(
            on(rule, port)
            and any(peer.get("ipBlock", {}).get("cidr") == address for peer in rule.get("to", []))
            for rule in self._rules(source, "egress")
        )

    def _rules(self, labels: dict[str, str], direction: str) -> list[Any]:
        return [
            rule
            for spec in self.specs
            if spec["podSelector"].get("matchLabels", {}).items() <= labels.items()
            for rule in spec.get(direction, [])
        ]


def fits(peer: Any, labels: dict[str, str]) -> bool:
    return peer["podSelector"].get("matchLabels", {}).items() <= labels.items()


def on(rule: Any, port: int) -> bool:
    return "ports" not in rule or port in [each["port"] for each in rule["ports"]]
