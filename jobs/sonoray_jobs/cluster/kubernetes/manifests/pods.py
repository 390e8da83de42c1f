"""The Pods of Ray: what head, workers and submitter have in common, and what tells them apart.

Every Pod keeps to the `restricted` standard: uid 1000, no capabilities, read-only root. It writes
to `/tmp`, an emptyDir that is requested and limited, and where it has one to the workspace.
"""

from sonoray_jobs.cluster.kubernetes.manifests.naming import (
    ACCOUNT,
    MLFLOW,
    PART_LABEL,
    WORKSPACE_CLAIM,
    Object,
)
from sonoray_jobs.cluster.kubernetes.site import Group, Site

POD_SECURITY: Object = {
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "runAsGroup": 1000,
    "fsGroup": 1000,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY: Object = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
ROAD_FOLDER = "/etc/sonoray"
WORKSPACE_FOLDER = "/workspace"
MODELS_FOLDER = "/models"
KEYS_FOLDER = "/etc/sonoray-keys"
SERVICE_FOLDER = "/etc/sonoray-service"
IDENTITY_FOLDER = "/etc/sonoray-identity"
S3_FOLDER = "/etc/sonoray-s3"
_START: Object = {
    "command": ["/bin/bash", "-c", "--"],
    "args": [
        "ulimit -n 65536; eval "
        '"exec ${KUBERAY_GEN_RAY_START_CMD/#ray /python -m sonoray_jobs.cluster.ray_node }"'
    ],
}
"""KubeRay's own command, by way of a module that makes it hold on a busy CPU."""
_OVERWRITES = {"ray.io/overwrite-container-cmd": "true"}
AGENT_PORT = 52365
"""Of the node's agent, unless it is given."""
SAFE_TO_EVICT = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}


def _readiness(timeout_s: int) -> Object:
    """KubeRay's own readiness probe, asked sooner: that begins after 10 s and has a period of 5 s.

    Args:
        timeout_s: of one question; KubeRay's.
    """
    return {
        "httpGet": {"path": "/api/healthz", "port": AGENT_PORT},
        "initialDelaySeconds": 1,
        "periodSeconds": 2,
        "timeoutSeconds": timeout_s,
        "failureThreshold": 25,  # 50 s, as KubeRay's
    }


def secret_env(name: str, secret: str, key: str) -> Object:
    """An environment variable from a Secret."""
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}


def mlflow_env(site: Site, account: str) -> list[Object]:
    """Where MLflow is, and as whom to speak to it: `writer` or `reader`."""
    env: list[Object] = [{"name": "MLFLOW_TRACKING_URI", "value": f"http://{MLFLOW}:5000"}]
    if secret := site.mlflow.accounts_secret:
        env += [
            {"name": "MLFLOW_TRACKING_USERNAME", "value": account},
            secret_env("MLFLOW_TRACKING_PASSWORD", secret, f"{account}_password"),
        ]
    return env


def pacs_env(site: Site) -> list[Object]:
    """Who asks the PACS."""
    secret = site.pacs.secret
    return [secret_env("SONORAY_DICOMWEB_TOKEN", secret, "token")] if secret else []


def job_env(site: Site) -> list[Object]:
    """Environment of Ray where the road's steps run."""
    env = [
        *mlflow_env(site, "writer"),
        # 60 s by default: a node that pulls the image needs longer
        {"name": "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "value": "600"},
    ]
    if site.identity_secret:
        env.append({"name": "SONORAY_IDENTITY_KEY_FILE", "value": f"{IDENTITY_FOLDER}/key"})
    env += pacs_env(site)
    if site.object_store.endpoint:
        env += [
            {"name": "AWS_ENDPOINT_URL", "value": site.object_store.endpoint},
            {"name": "AWS_DEFAULT_REGION", "value": site.object_store.region},
            {"name": "AWS_SHARED_CREDENTIALS_FILE", "value": f"{S3_FOLDER}/credentials"},
        ]
    return env


def job_volumes(site: Site, road_map: str) -> dict[str, tuple[Object, Object]]:
    """By name: volume and mount of Ray Pods that run the road's steps."""
    volumes: dict[str, tuple[Object, Object]] = {
        "workspace": (
            {"persistentVolumeClaim": {"claimName": WORKSPACE_CLAIM}},
            {"mountPath": WORKSPACE_FOLDER},
        ),
        "road": ({"configMap": {"name": road_map}}, {"mountPath": ROAD_FOLDER, "readOnly": True}),
    }
    if site.identity_secret:
        volumes["identity"] = secret_volume(site.identity_secret, IDENTITY_FOLDER)
    if site.object_store.endpoint:
        volumes["s3"] = secret_volume(site.object_store.secret, S3_FOLDER)
    return volumes


def secret_volume(secret: str, folder: str) -> tuple[Object, Object]:
    """Volume and mount of a Secret."""
    return (
        {"secret": {"secretName": secret, "defaultMode": 0o440}},
        {"mountPath": folder, "readOnly": True},
    )


def head_template(
    site: Site,
    part: str,
    env: list[Object],
    volumes: dict[str, tuple[Object, Object]],
    *,
    scales: bool,
) -> Object:
    """The head's Pod template.

    Args:
        site: whose.
        part: cluster, job or service.
        env: environment.
        volumes: by name, volume and mount.
        scales: whether KubeRay puts an autoscaler beside it, which needs an account.
    """
    from sonoray_jobs.cluster.kubernetes.manifests.naming import AUTOSCALER_ACCOUNT

    head = site.head
    template = _template(
        site,
        part,
        container={
            "name": "ray-head",
            **_START,
            "readinessProbe": _readiness(5),
            "env": env,
            "resources": {
                "requests": {
                    "cpu": head.cpu,
                    "memory": head.memory,
                    "ephemeral-storage": head.scratch,
                },
                "limits": {
                    "cpu": head.cpu_limit,
                    "memory": head.memory,
                    "ephemeral-storage": head.scratch,
                },
            },
        },
        volumes=volumes,
        scratch=head.scratch,
    )
    template["metadata"]["annotations"] |= _OVERWRITES
    pod = template["spec"]
    if scales:
        pod["serviceAccountName"] = AUTOSCALER_ACCOUNT
        pod["volumes"].append({"name": "api-token", "projected": _API_TOKEN})
    return template


def worker_template(
    site: Site,
    part: str,
    group: Group,
    env: list[Object],
    volumes: dict[str, tuple[Object, Object]],
) -> Object:
    """A worker group's Pod template: requests are limits, since Ray counts the limits."""
    resources: Object = {
        "cpu": group.cpu,
        "memory": group.memory,
        "ephemeral-storage": group.scratch,
    }
    selector = dict(group.selector)
    tolerations: list[Object] = []
    if group.gpus:
        node = site.gpu_nodes[group.gpu_node]
        resources[node.resource] = str(group.gpus)
        selector |= node.selector
        tolerations = [
            {"key": taint, "operator": "Exists", "effect": "NoSchedule"} for taint in node.taints
        ]
    template = _template(
        site,
        part,
        container={
            "name": "ray-worker",
            **_START,
            # KubeRay asks workers of a service for Ray Serve's proxy too, where none is given
            **({} if part == "service" else {"readinessProbe": _readiness(2)}),
            "env": env,
            "resources": {"requests": dict(resources), "limits": dict(resources)},
        },
        volumes=volumes,
        scratch=group.scratch,
    )
    template["metadata"]["annotations"] |= _OVERWRITES
    pod = template["spec"]
    pod["initContainers"] = [_wait_for_name(site)]
    if selector:
        pod["nodeSelector"] = selector
    if tolerations:
        pod["tolerations"] = tolerations
    return template


def submitter_template(site: Site) -> Object:
    """The Pod that hands a job to its cluster and prints the log."""
    from sonoray_jobs.cluster.kubernetes.manifests.naming import SUBMITTER

    template = _template(
        site,
        "platform",
        container={
            "name": "ray-job-submitter",
            "resources": {
                "requests": {"cpu": "100m", "memory": "512Mi", "ephemeral-storage": "1Gi"},
                "limits": {"memory": "1Gi", "ephemeral-storage": "1Gi"},
            },
        },
        volumes={},
        scratch="1Gi",
    )
    template["metadata"]["labels"] |= SUBMITTER
    template["spec"]["restartPolicy"] = "Never"
    return template


def plain_pod(
    site: Site, container: Object, volumes: dict[str, tuple[Object, Object]], scratch: str
) -> Object:
    """The template of a Pod that is no Ray node."""
    return _template(site, "platform", container=container, volumes=volumes, scratch=scratch)


_API_TOKEN: Object = {
    "sources": [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {
            "downwardAPI": {
                "items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]
            }
        },
    ]
}
"""What the kubelet would mount into every container, were it not for the autoscaler alone."""

API_TOKEN_MOUNT: Object = {
    "name": "api-token",
    "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
    "readOnly": True,
}


def _wait_for_name(site: Site) -> Object:
    """Runs before KubeRay's own waiting, which says nothing where DNS does not answer."""
    return {
        "name": "wait-for-name",
        "image": site.image_name,
        "imagePullPolicy": site.image.pull_policy,
        "command": ["python", "-m", "sonoray_jobs.cluster.kubernetes.wait_for_name"],
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "resources": {
            "requests": {"cpu": "50m", "memory": "128Mi"},
            "limits": {"memory": "128Mi"},
        },
        "securityContext": CONTAINER_SECURITY,
    }


def _template(
    site: Site,
    part: str,
    *,
    container: Object,
    volumes: dict[str, tuple[Object, Object]],
    scratch: str,
) -> Object:
    volumes = {**volumes, "tmp": ({"emptyDir": {"sizeLimit": scratch}}, {"mountPath": "/tmp"})}  # noqa: S108
    pod: Object = {
        "serviceAccountName": ACCOUNT,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": POD_SECURITY,
        "containers": [
            {
                "image": site.image_name,
                "imagePullPolicy": site.image.pull_policy,
                "securityContext": CONTAINER_SECURITY,
                **container,
                "volumeMounts": [{"name": name, **mount} for name, (_, mount) in volumes.items()],
            }
        ],
        "volumes": [{"name": name, **volume} for name, (volume, _) in volumes.items()],
    }
    if site.image.pull_secret:
        pod["imagePullSecrets"] = [{"name": site.image.pull_secret}]
    labels = {PART_LABEL: part, "app.kubernetes.io/part-of": "sonoray"}
    return {"metadata": {"labels": labels, "annotations": {}}, "spec": pod}
