"""Waiting for workloads to be ready, with what is missing as it changes."""

import logging
import time
from collections.abc import Sequence
from typing import Any

from sonoray.errors import ClusterError
from sonoray_jobs.cluster.kubernetes.live.api_server import Api, Resource, resource_of
from sonoray_jobs.cluster.kubernetes.live.contents import image_of, maps_of
from sonoray_jobs.cluster.kubernetes.manifests.naming import Object
from sonoray_jobs.cluster.kubernetes.refusals.walk import entries, inside
from sonoray_jobs.cluster.kubernetes.yaml_files import name_of, namespace_of

logger = logging.getLogger(__name__)

POLL_S = 2.0
_RAY_CLUSTER = Resource(api_version="ray.io/v1", kind="RayCluster")


def wait_ready(api: Api, objects: Sequence[Object], wait_s: float) -> float:
    """Wait until all workloads are ready, saying what is missing as it changes.

    Returns:
        Seconds that it took.

    Raises:
        ClusterError: they were not in time; names the first and what it says of itself.
    """
    began = time.monotonic()
    waiting = {name_of(made): made for made in objects if made["kind"] in _READY}
    said: dict[str, str] = {}
    while waiting:
        for name, made in list(waiting.items()):
            live = api.get(
                resource_of(made), made["metadata"]["namespace"], made["metadata"]["name"]
            )
            missing = missing_of(made["kind"], live or {}) or _kept(api, live or {})
            if not missing:
                logger.info("%s is ready after %.0f s", name, time.monotonic() - began)
                del waiting[name]
            elif said.get(name) != missing:
                logger.info("%s: %s", name, missing)
                said[name] = missing
        if waiting and time.monotonic() - began > wait_s:
            name = next(iter(waiting))
            raise ClusterError(
                f"{name} is not ready after {wait_s:g} s: {said[name]}; all was applied, see: "
                "sonoray k8s status"
            )
        if waiting:
            time.sleep(POLL_S)
    return time.monotonic() - began


def missing_of(kind: str, live: Object) -> str:
    """What a live object lacks to be ready, empty where nothing; of a kind that is waited for."""
    told: str = _READY[kind](live)
    return told


def _kept(api: Api, live: Object) -> str:
    """What a service lacks that serves with the cluster of before, and makes no other one."""
    active = inside(live, "status", "activeServiceStatus").get("rayClusterName")
    if live.get("kind") != "RayService" or not active:
        return ""
    cluster = api.get(_RAY_CLUSTER, namespace_of(live), str(active))
    if cluster is None or _template_of(cluster) == _template_of(live):
        return ""
    return (
        "the operator keeps the cluster of before; with service.gateway_class it needs its feature "
        "gate RayServiceIncrementalUpgrade"
    )


def _template_of(made: Object) -> tuple[str, set[str]]:
    return image_of([made]), maps_of(made)


def _deployment(live: Object) -> str:
    spec, status = inside(live, "spec"), inside(live, "status")
    wanted = spec.get("replicas", 1)
    ready = status.get("availableReplicas", 0)
    seen = status.get("observedGeneration", 0) >= inside(live, "metadata").get("generation", 1)
    updated = status.get("updatedReplicas", 0)
    if seen and ready >= wanted and updated >= wanted:
        return ""
    return f"{ready} of {wanted} Pods are available"


def _condition(kind: str) -> Any:  # noqa: ANN401 - a reader of the live object
    def read(live: Object) -> str:
        status = inside(live, "status")
        found = {str(each.get("type")): each for each in entries(status.get("conditions"))}
        if found.get(kind, {}).get("status") == "True":
            return ""
        told = found.get(kind, {}).get("message") or status.get("reason") or status.get("state")
        return " ".join(str(told or "the operator has not looked at it yet").split())

    return read


def _service(live: Object) -> str:
    """Ready, and no longer with what was there before: Ready alone may speak of the old cluster."""
    status = inside(live, "status")
    if status.get("observedGeneration", 0) < inside(live, "metadata").get("generation", 1):
        return "the operator has not looked at it yet"
    if not _condition("UpgradeInProgress")(live):
        return "a new cluster comes up; the old one serves meanwhile"
    told: str = _condition("Ready")(live)
    return f"{told}; {app}" if told and (app := _application(status)) else told


def _application(status: Object) -> str:
    """What Ray Serve says of an application that does not run yet; the newest cluster's first."""
    for which in ("pendingServiceStatus", "activeServiceStatus"):
        for name, app in inside(inside(status, which), "applicationStatuses").items():
            if app.get("status") != "RUNNING":
                lines = str(app.get("message") or "").strip().splitlines()
                return f"{name} is {app.get('status')}: {lines[-1] if lines else ''}".rstrip(": ")
    return ""


def _job(live: Object) -> str:
    status = inside(live, "status")
    if status.get("succeeded"):
        return ""
    return f"{status.get('failed', 0)} tries failed" if status.get("failed") else "it runs"


_READY = {
    "Deployment": _deployment,
    "Job": _job,
    "RayCluster": _condition("RayClusterProvisioned"),
    "RayService": _service,
}
