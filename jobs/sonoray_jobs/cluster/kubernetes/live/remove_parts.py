"""Take parts of a site, or a job, off the cluster; volumes and the namespace only when asked.

What runs Pods goes first, and the rest waits until they have ended: network policies hold to the
last of them, and a service account, a quota or MLflow is there as long as somebody needs it.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sonoray.errors import ClusterError
from sonoray_jobs.cluster.kubernetes.live.api_server import Api, Resource, resource_of
from sonoray_jobs.cluster.kubernetes.manifests.naming import Object
from sonoray_jobs.cluster.kubernetes.refusals.walk import entries
from sonoray_jobs.cluster.kubernetes.yaml_files import name_of

logger = logging.getLogger(__name__)

KEPT = {"Namespace", "PersistentVolumeClaim", "PriorityClass"}
"""Kinds that stay: data, and what other tenants share."""
POLL_S = 1.0
_RUNS_PODS = ("Deployment", "Job", "CronJob", "RayCluster", "RayJob", "RayService")
_BELOW = (
    Resource(api_version="apps/v1", kind="ReplicaSet"),
    Resource(api_version="batch/v1", kind="Job"),
    Resource(api_version="ray.io/v1", kind="RayJob"),
    Resource(api_version="ray.io/v1", kind="RayCluster"),
    Resource(api_version="v1", kind="Pod"),
)
"""What controllers make for an object that runs Pods, owners before what they own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Removed:
    """What was deleted."""

    names: tuple[str, ...]
    kept: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """For a person."""
        told = [f"deleted {name}" for name in self.names] or ["nothing was there"]
        return [*told, *(f"kept {name}" for name in self.kept)]

    def to_json(self) -> dict[str, Any]:
        """For a script."""
        return asdict(self)


def remove(api: Api, objects: Sequence[Object], *, volumes: bool, wait_s: float) -> Removed:
    """Delete objects, those with Pods first and the last applied first, and wait until all is gone.

    Ray's objects have finalizers that only the operator takes off; it must still run.

    Args:
        api: the cluster.
        objects: what to delete.
        volumes: whether claims go too, with the data.
        wait_s: time for all to be gone.

    Raises:
        ClusterError: something is still there after that time.
    """
    kept = KEPT - ({"PersistentVolumeClaim"} if volumes else set())
    deadline = time.monotonic() + wait_s
    names: list[str] = []
    for runs_pods in (True, False):
        phase = [
            made
            for made in reversed(objects)
            if made["kind"] not in kept and (made["kind"] in _RUNS_PODS) == runs_pods
        ]
        names += _remove(api, phase, deadline, wait_s)
    return Removed(
        names=tuple(names), kept=tuple(name_of(made) for made in objects if made["kind"] in kept)
    )


def _remove(api: Api, phase: Sequence[Object], deadline: float, wait_s: float) -> list[str]:
    """Delete objects and wait for them and for what belongs to them; the names of those there."""
    there = [live for made in phase if (live := _live(api, made))]
    below = _below(api, there)
    for live in there:
        api.delete(resource_of(live), _namespace(live), live["metadata"]["name"])
    left, said = [*there, *below], ""
    while left := [each for each in left if _is_there(api, each)]:
        if time.monotonic() > deadline:
            raise ClusterError(
                f"{name_of(left[0])} is still there after {wait_s:g} s; where the operator is "
                "gone, nobody takes its finalizer off: install it again, or remove the finalizer"
            )
        if said != (said := f"{len(left)} objects are still there, such as {name_of(left[0])}"):
            logger.info("%s", said)
        time.sleep(POLL_S)
    return [name_of(live) for live in there]


def _below(api: Api, owners: Sequence[Object]) -> list[Object]:
    """What controllers made for objects that run Pods, and what others made for that."""
    if not any(each["kind"] in _RUNS_PODS for each in owners):
        return []
    known = {str(each["metadata"]["uid"]) for each in owners}
    found: list[Object] = []
    for resource in _BELOW:
        for each in api.items(resource, _namespace(owners[0])):
            above = entries(each["metadata"].get("ownerReferences"))
            uid = str(each["metadata"]["uid"])
            if uid not in known and any(owner.get("uid") in known for owner in above):
                known.add(uid)
                # the items of a list do not name their kind
                found.append({**each, "apiVersion": resource.api_version, "kind": resource.kind})
    return found


def _live(api: Api, made: Object) -> Object | None:
    return api.get(resource_of(made), _namespace(made), made["metadata"]["name"])


def _is_there(api: Api, known: Object) -> bool:
    """Whether this very object is there, not another one of its name."""
    live = _live(api, known)
    return live is not None and live["metadata"]["uid"] == known["metadata"]["uid"]


def _namespace(made: Object) -> str:
    return str(made["metadata"].get("namespace", ""))
