"""Who may do what: pod security, tokens, secrets, network."""

import re
from typing import Any


def test_pods_keep_to_the_restricted_standard_with_a_read_only_root(manifests: Any) -> None:
    templates = list(manifests.pod_templates())
    assert len(templates) == 8
    for template in templates:
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for volume in pod["volumes"]:
            assert set(volume) - {"name"} <= {"emptyDir", "configMap", "persistentVolumeClaim"}
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in container["resources"]["limits"]
            mounts = {item["mountPath"]: item["name"] for item in container["volumeMounts"]}
            assert "emptyDir" in volumes[mounts["/tmp"]]
    labels = manifests.only("Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_ray_pods_are_alike_and_their_clusters_ask_for_a_token(manifests: Any) -> None:
    first, *others = [template["spec"] for template in manifests.ray_templates()]
    assert first["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"
    for pod in others:
        assert pod["securityContext"] == first["securityContext"]
        assert pod["volumes"] == first["volumes"]
        for key in ("env", "volumeMounts", "securityContext"):
            assert pod["containers"][0][key] == first["containers"][0][key]
    for _, spec in manifests.ray_clusters():
        assert spec["authOptions"] == {"mode": "token"}
        assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_no_secret_lies_in_a_manifest_or_an_environment(manifests: Any) -> None:
    assert not manifests.of_kind("Secret")
    for template in manifests.pod_templates():
        for container in template["spec"]["containers"]:
            for item in container.get("env", []):
                assert set(item) == {"name", "value"}
                assert not re.search("KEY|TOKEN|SECRET|PASSWORD", item["name"])


def test_head_services_do_not_collide(manifests: Any) -> None:
    """KubeRay names them NAME-head-svc, whatever the kind."""
    names = [name for name, _ in manifests.ray_clusters()]
    assert len(set(names)) == 3


def test_network_is_denied_but_for_dns(variants: Any) -> None:
    policies = _policies(variants["base"])
    assert policies["deny-all"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    dns = policies["allow-dns"]
    assert dns["podSelector"] == {}
    [rule] = dns["egress"]
    ports = {(port["port"], port["protocol"]) for port in rule["ports"]}
    assert ports == {(53, "UDP"), (53, "TCP")}


def test_network_lets_through_what_the_platform_needs_and_no_more(variants: Any) -> None:
    base = variants["base"]
    ray = {"ray.io/is-ray-node": "yes"}
    service = {**ray, "ray.io/serve": "true"}
    submitter = base.only("RayJob")["spec"]["submitterPodTemplate"]["metadata"]["labels"]
    mlflow = base.only("Deployment")["spec"]["template"]["metadata"]["labels"]
    policies = list(_policies(base).values())

    def allows(source: dict[str, str], target: dict[str, str], port: int) -> bool:
        out = [
            rule for spec in policies if _selects(spec, source) for rule in spec.get("egress", [])
        ]
        into = [
            rule for spec in policies if _selects(spec, target) for rule in spec.get("ingress", [])
        ]
        return any(_passes(rule, "to", target, port) for rule in out) and any(
            _passes(rule, "from", source, port) for rule in into
        )

    assert allows(ray, ray, 6379)
    assert allows(ray, mlflow, 5000)
    assert allows(submitter, ray, 8265)
    assert not allows(submitter, ray, 6379)
    assert not allows(submitter, mlflow, 5000)
    assert not allows(mlflow, ray, 8265)
    assert not allows({}, service, 8000)
    clients = _policies(base)["serve-clients"]
    assert _selects(clients, service)
    assert not _selects(clients, ray)
    [rule] = clients["ingress"]
    assert rule["from"] == [{"namespaceSelector": {"matchLabels": {"sonoray.io/client": "true"}}}]
    assert rule["ports"] == [{"port": 8000}]


def _policies(manifests: Any) -> dict[str, Any]:
    return {item["metadata"]["name"]: item["spec"] for item in manifests.of_kind("NetworkPolicy")}


def _matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    return selector.get("matchLabels", {}).items() <= labels.items()


def _selects(spec: dict[str, Any], labels: dict[str, str]) -> bool:
    return _matches(spec["podSelector"], labels)


def _passes(rule: dict[str, Any], peers: str, labels: dict[str, str], port: int) -> bool:
    """Whether a rule covers a pod of this namespace on this port."""
    known = any(
        "namespaceSelector" not in peer and _matches(peer["podSelector"], labels)
        for peer in rule[peers]
    )
    return known and ("ports" not in rule or port in [item["port"] for item in rule["ports"]])
