"""The endpoint: a RayService that outlives its head, its keys and its upgrades.

- **Keys** are sha256 digests in a Secret that the ingress replicas read again while they serve, so
  that a key is added or withdrawn without a restart.
- **Model and limits** lie in `service.toml`, an immutable ConfigMap whose name holds its hash. A
  change of it changes the head's template, and so brings up a second cluster before the first goes.
- **A new cluster** takes over when its applications run, which vision holds back until the Pods are
  ready (`sonoray_serve.replicas.pod_ready`).
- **An old cluster** stays for longer than a request may take.
- **The workspace** is not mounted: a Pod that faces the network sees neither studies nor the
  identity key. Models come from MLflow into an emptyDir.
"""

import json
from typing import Any

from sonoray_jobs.cluster.kubernetes.manifests.naming import (
    COMPONENT,
    PART_LABEL,
    SERVICE,
    Object,
    config_map,
    metadata,
)
from sonoray_jobs.cluster.kubernetes.manifests.pods import (
    KEYS_FOLDER,
    MODELS_FOLDER,
    SERVICE_FOLDER,
    mlflow_env,
    pacs_env,
    secret_env,
    secret_volume,
)
from sonoray_jobs.cluster.kubernetes.manifests.ray_clusters import cluster_spec
from sonoray_jobs.cluster.kubernetes.site import Site
from sonoray_serve.proxy.last_word import IMPORT_PATH, VARIABLE
from sonoray_serve.replicas import pod_ready

LEAVE_S = 30
"""How much longer than the deadline of a request the old cluster of an upgrade stays."""
POD_READY_AFTER_S = 10
"""From an answer of Ray Serve's proxy to a Pod among the endpoints: KubeRay's probe of a worker has
a period of 5 s and a time-out of 2 s, and then every node has to learn of it."""
_WORKERS = {PART_LABEL: "service", "ray.io/node-type": "worker"}


def service_settings(site: Site) -> Object:
    """The ConfigMap with `service.toml`: model and limits, small enough to read and to patch."""
    service = site.service
    values: dict[str, Any] = {"model": service.model, "workspace": MODELS_FOLDER}
    if service.model_digest:
        values["model_digest"] = service.model_digest
    values["api_key_digests_folder"] = KEYS_FOLDER
    changed = service.replicas.model_dump(mode="json", exclude_defaults=True)
    text = _toml(values) + "".join(_tables(changed, "config"))
    return config_map(site, "sonoray-service", "service", "service.toml", text)


def _toml(values: dict[str, Any]) -> str:
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())


def _tables(values: dict[str, Any], name: str) -> list[str]:
    plain = {key: value for key, value in values.items() if not isinstance(value, dict)}
    texts = [f"\n[{name}]\n{_toml(plain)}"] if plain else []
    for key, value in values.items():
        if isinstance(value, dict):
            texts += _tables(value, f"{name}.{key}")
    return texts


def ray_service(site: Site, settings_map: str) -> Object:
    """The RayService."""
    service = site.service
    env = [
        *mlflow_env(site, "reader"),
        {"name": VARIABLE, "value": IMPORT_PATH},
        {"name": pod_ready.VARIABLE, "value": str(POD_READY_AFTER_S)},
    ]
    if service.replicas.dicomweb:
        env += pacs_env(site)
    spec = cluster_spec(
        site,
        "service",
        {service.group: None},
        env=env,
        volumes={
            "models": (
                {"emptyDir": {"sizeLimit": site.groups[service.group].scratch}},
                {"mountPath": MODELS_FOLDER},
            ),
            "keys": secret_volume(service.keys_secret, KEYS_FOLDER),
            "service": (
                {"configMap": {"name": settings_map}},
                {"mountPath": SERVICE_FOLDER, "readOnly": True},
            ),
        },
    )
    for group in spec["workerGroupSpecs"]:
        group["minReplicas"] = group["replicas"] = max(1, site.groups[service.group].min)
        group["template"]["spec"]["topologySpreadConstraints"] = [
            _spread("kubernetes.io/hostname", service.spread),
            _spread("topology.kubernetes.io/zone", "preferred"),
        ]
    if service.redis.address:
        spec["gcsFaultToleranceOptions"] = {"redisAddress": service.redis.address}
        if service.redis.password_secret:
            password = secret_env("", service.redis.password_secret, "password")
            spec["gcsFaultToleranceOptions"]["redisPassword"] = {"valueFrom": password["valueFrom"]}
    upgrade: Object = {"type": "NewCluster"}
    if service.gateway_class:
        upgrade = {
            "type": "NewClusterWithIncrementalUpgrade",
            "clusterUpgradeOptions": {
                "gatewayClassName": service.gateway_class,
                "stepSizePercent": 25,
                "intervalSeconds": 30,
                "maxSurgePercent": 100,
            },
        }
    application = {
        "name": "sonoray",
        "import_path": "sonoray_serve.app:build",
        "route_prefix": "/",
        "args": {"file": f"{SERVICE_FOLDER}/service.toml"},
    }
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": metadata(site, SERVICE, "service"),
        "spec": {
            "excludeHeadPodFromServeSvc": True,
            "upgradeStrategy": upgrade,
            "rayClusterDeletionDelaySeconds": int(service.replicas.limits.deadline_s) + LEAVE_S,
            "serveConfigV2": json.dumps({"applications": [application]}, indent=1) + "\n",
            "rayClusterConfig": spec,
        },
    }


def disruption_budget(site: Site) -> Object:
    """How many Serve workers a drained node must leave.

    Not `maxUnavailable`: for that the controller asks the Pods' owner for its size, which a
    RayCluster does not tell, and then nobody may be evicted.
    """
    fewest = max(1, site.groups[site.service.group].min)
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(site, SERVICE, "service"),
        "spec": {
            "minAvailable": max(0, fewest - site.service.max_unavailable),
            "selector": {"matchLabels": _WORKERS},
        },
    }


def ingress(site: Site) -> Object:
    """The way in for clients outside the cluster; its controller ends TLS."""
    service = site.service
    backend = {"service": {"name": f"{SERVICE}-serve-svc", "port": {"number": 8000}}}
    timeout_s = str(int(service.replicas.limits.deadline_s))
    made = metadata(site, SERVICE, "service")
    made["annotations"] = {
        "nginx.ingress.kubernetes.io/proxy-body-size": str(service.replicas.limits.max_body_bytes),
        "nginx.ingress.kubernetes.io/proxy-read-timeout": timeout_s,
        "nginx.ingress.kubernetes.io/proxy-buffering": "off",
    }
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": made,
        "spec": {
            "ingressClassName": service.ingress_class,
            "tls": [{"hosts": [service.host], "secretName": service.tls_secret}],
            "rules": [
                {
                    "host": service.host,
                    "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]},
                }
            ],
        },
    }


def _spread(topology: str, how: str) -> Object:
    return {
        "maxSkew": 1,
        "topologyKey": topology,
        "whenUnsatisfiable": "DoNotSchedule" if how == "required" else "ScheduleAnyway",
        "labelSelector": {"matchLabels": _WORKERS},
        "matchLabelKeys": ["ray.io/cluster"],
    }


__all__ = ["COMPONENT", "disruption_budget", "ingress", "ray_service", "service_settings"]
