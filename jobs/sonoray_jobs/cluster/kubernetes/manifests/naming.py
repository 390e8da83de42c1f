"""Names and labels that several objects share, so that selectors and what they select agree."""

import hashlib
from typing import Any

from sonoray_jobs.cluster.kubernetes.site import Site

Object = dict[str, Any]

CLUSTER = "sonoray"
"""The standing RayCluster."""
SERVICE = "llava-ultra"
"""The RayService."""
MLFLOW = "mlflow"
SCHEDULED = "scheduled-steps"
"""The CronJob."""
WORKSPACE_CLAIM = "sonoray-workspace"
MLFLOW_CLAIM = "mlflow"
ACCOUNT = "sonoray"
"""Service account of every Pod; it has no token."""
AUTOSCALER_ACCOUNT = "sonoray-autoscaler"
"""Service account of the heads that scale; only their autoscaler container has its token."""
PART_LABEL = "sonoray.io/part"
"""On every Pod: cluster, job, service, platform."""
SUBMITTER = {"sonoray.io/role": "submitter"}
COMPONENT = "app.kubernetes.io/component"
PRIORITIES = {"service": ("sonoray-service", 100_000), "batch": ("sonoray-batch", 0)}


def metadata(site: Site, name: str, component: str, **more: Any) -> Object:  # noqa: ANN401 - YAML
    """The metadata of an object of the tenant's namespace."""
    return {
        "name": name,
        "namespace": site.namespace,
        "labels": {
            COMPONENT: component,
            "app.kubernetes.io/part-of": "sonoray",
        },
        **more,
    }


def hashed_name(name: str, content: str) -> str:
    """A name that changes with the content, so that what runs keeps what it began with."""
    return f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:10]}"


def config_map(site: Site, name: str, component: str, file: str, content: str) -> Object:
    """An immutable ConfigMap of one file."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(site, hashed_name(name, content), component),
        "immutable": True,
        "data": {file: content},
    }
