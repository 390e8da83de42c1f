"""What stands before anything runs: namespace, accounts, storage, priorities, quota and limits."""

from sonoray_jobs.cluster.kubernetes.manifests.naming import (
    ACCOUNT,
    AUTOSCALER_ACCOUNT,
    PRIORITIES,
    WORKSPACE_CLAIM,
    Object,
    metadata,
)
from sonoray_jobs.cluster.kubernetes.site import Site

POD_SECURITY_VERSION = "v1.36"
"""Version of the `restricted` standard that is meant; an older cluster takes its own newest."""


def namespace(site: Site) -> Object:
    """The tenant's namespace: one trust zone, since who reaches a Ray cluster runs code on it."""
    made = metadata(site, site.namespace, "platform")
    del made["namespace"]
    for mode in ("enforce", "warn"):
        made["labels"] |= {
            f"pod-security.kubernetes.io/{mode}": "restricted",
            f"pod-security.kubernetes.io/{mode}-version": POD_SECURITY_VERSION,
        }
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": made}


def service_accounts(site: Site) -> list[Object]:
    """The accounts; KubeRay gives the autoscaler's its role."""
    return [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": metadata(site, name, "platform"),
            "automountServiceAccountToken": False,
        }
        for name in (ACCOUNT, AUTOSCALER_ACCOUNT)
    ]


def priority_classes(site: Site) -> list[Object]:
    """The service before the jobs; alike for all tenants, since they belong to the cluster."""
    made = []
    for about, (name, value) in PRIORITIES.items():
        about = {"service": "answers people", "batch": "may wait, is tried again"}[about]
        one: Object = {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": metadata(site, name, "platform"),
            "value": value,
            "globalDefault": False,
            "description": f"SonoRay: {about}.",
        }
        del one["metadata"]["namespace"]
        made.append(one)
    made[1]["preemptionPolicy"] = "Never"
    return made


def claim(site: Site, name: str, access: str, size: str, storage_class: str) -> Object:
    """A claim of a volume."""
    spec: Object = {"accessModes": [access], "resources": {"requests": {"storage": size}}}
    if storage_class:
        spec["storageClassName"] = storage_class
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata(site, name, "platform"),
        "spec": spec,
    }


def workspace(site: Site) -> Object:
    """The volume of studies, features and checkpoints."""
    storage = site.storage
    return claim(
        site,
        WORKSPACE_CLAIM,
        storage.workspace_access,
        storage.workspace_size,
        storage.workspace_class,
    )


def quota(site: Site) -> Object:
    """Most that the tenant may ask for at once."""
    hard: Object = {
        "requests.cpu": site.quota.cpu,
        "requests.memory": site.quota.memory,
        "requests.ephemeral-storage": site.quota.scratch,
        "pods": str(site.quota.pods),
    }
    for resource in sorted({node.resource for node in site.gpu_nodes.values()}):
        hard[f"requests.{resource}"] = str(site.quota.gpus)
    return {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": metadata(site, "sonoray", "platform"),
        "spec": {"hard": hard},
    }


def limit_range(site: Site) -> Object:
    """What a container asks for that says nothing, such as one that an operator adds to a Pod."""
    return {
        "apiVersion": "v1",
        "kind": "LimitRange",
        "metadata": metadata(site, "sonoray", "platform"),
        "spec": {
            "limits": [
                {
                    "type": "Container",
                    "defaultRequest": {
                        "cpu": "100m",
                        "memory": "256Mi",
                        "ephemeral-storage": "100Mi",
                    },
                    "default": {"memory": "512Mi", "ephemeral-storage": "1Gi"},
                }
            ]
        },
    }
