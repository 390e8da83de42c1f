"""The cluster part of RayCluster, RayJob and RayService, and the standing RayCluster itself.

The head takes no work: it has no CPUs, and the entrypoint of a job asks for the resource `driver`,
which only workers have. The standing cluster and the service scale, with the token of the API in
the autoscaler's container alone; the clusters of jobs have a fixed size, on which a queue counts.
"""

from collections.abc import Mapping

from sonoray_jobs.cluster.kubernetes.manifests.naming import CLUSTER, PRIORITIES, Object, metadata
from sonoray_jobs.cluster.kubernetes.manifests.pods import (
    API_TOKEN_MOUNT,
    CONTAINER_SECURITY,
    SAFE_TO_EVICT,
    head_template,
    job_env,
    job_volumes,
    worker_template,
)
from sonoray_jobs.cluster.kubernetes.site import Group, Site, ray_version

AGENT_PORTS = {"dashboard-agent-grpc-port": "8091", "runtime-env-agent-port": "8092"}
"""A raylet waits only 15 s for agents that choose their ports. Two more are given by KubeRay, and
`sonoray_jobs.cluster.ray_node` makes Ray believe them."""
PATIENCE: list[Object] = [
    {"name": "RAY_DASHBOARD_STARTUP_TIMEOUT_S", "value": "300"},
    {"name": "RAY_agent_register_timeout_ms", "value": "300000"},
]
"""60 s and 30 s by default. After the first a head goes on without a dashboard, and no job gets in;
after the second a raylet ends. KubeRay's own probes give a node ten minutes."""
DRIVER = '{"driver": 1}'
"""What a job's entrypoint asks for, so that it runs on a worker."""
DRIVERS_A_WORKER = 8
"""Entrypoints that one worker of a standing cluster may carry at once."""


def cluster_spec(
    site: Site,
    part: str,
    groups: Mapping[str, int | None],
    *,
    env: list[Object],
    volumes: dict[str, tuple[Object, Object]],
) -> Object:
    """Describe a cluster.

    Args:
        site: whose.
        part: cluster, job or service.
        groups: by name of a group, a fixed number of workers, or None for its own range.
        env: environment of all Ray containers.
        volumes: volumes and mounts of all Ray Pods.
    """
    scales = any(number is None for number in groups.values())
    env = [*env, *PATIENCE]
    head = head_template(site, part, env, volumes, scales=scales)
    head["spec"]["priorityClassName"] = _priority(part)
    spec: Object = {
        "rayVersion": ray_version(),
        "authOptions": {"mode": "token"},
        "headGroupSpec": {
            "rayStartParams": {"num-cpus": "0", "num-gpus": "0", **AGENT_PORTS},
            "template": head,
        },
        "workerGroupSpecs": [
            _group(site, part, name, site.groups[name], number, env, volumes)
            for name, number in groups.items()
        ],
    }
    if scales:
        spec["enableInTreeAutoscaling"] = True
        spec["autoscalerOptions"] = {
            "version": "v2",
            "upscalingMode": "Default",
            "idleTimeoutSeconds": max(site.groups[name].idle_timeout_s for name in groups),
            "imagePullPolicy": site.image.pull_policy,
            "resources": {
                "requests": {"cpu": "200m", "memory": "512Mi", "ephemeral-storage": "1Gi"},
                "limits": {"cpu": "500m", "memory": "512Mi", "ephemeral-storage": "1Gi"},
            },
            "securityContext": CONTAINER_SECURITY,
            "volumeMounts": [API_TOKEN_MOUNT, {"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108
        }
    else:
        head["metadata"]["annotations"] |= SAFE_TO_EVICT
    return spec


def standing_cluster(site: Site, road_map: str) -> Object:
    """The RayCluster that `sonoray submit` and scheduled steps use."""
    spec = cluster_spec(
        site,
        "cluster",
        dict.fromkeys(site.cluster.groups),
        env=job_env(site),
        volumes=job_volumes(site, road_map),
    )
    # without it an image change replaces nothing, and a recreated worker runs beside an old head
    spec["upgradeStrategy"] = {"type": "Recreate"}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": metadata(site, CLUSTER, "cluster"),
        "spec": spec,
    }


def _group(
    site: Site,
    part: str,
    name: str,
    group: Group,
    number: int | None,
    env: list[Object],
    volumes: dict[str, tuple[Object, Object]],
) -> Object:
    template = worker_template(site, part, group, env, volumes)
    template["spec"]["priorityClassName"] = _priority(part)
    made: Object = {
        "groupName": name,
        "replicas": group.min if number is None else number,
        "minReplicas": group.min if number is None else number,
        "maxReplicas": group.max if number is None else number,
        "rayStartParams": dict(AGENT_PORTS),
        "template": template,
    }
    if part != "service":
        count = DRIVERS_A_WORKER if number is None else 1
        made["rayStartParams"]["resources"] = f"'{{\"driver\": {count}}}'"
    if number is None:
        made["idleTimeoutSeconds"] = group.idle_timeout_s
    return made


def _priority(part: str) -> str:
    return PRIORITIES["service" if part == "service" else "batch"][0]
