"""Take parts of a site, or a job, off the cluster; volumes and the namespace only when asked."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sonoray.errors import ClusterError
from sonoray_jobs.cluster.kubernetes.live.api_server import Api, resource_of
from sonoray_jobs.cluster.kubernetes.manifests.naming import Object
from sonoray_jobs.cluster.kubernetes.yaml_files import name_of

KEPT = {"Namespace", "PersistentVolumeClaim", "PriorityClass"}
"""Kinds that stay: data, and what other tenants share."""
POLL_S = 1.0


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
    """Delete objects, the last applied first, and wait until they are gone.

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
    names = []
    for made in reversed(objects):
        if made["kind"] in kept:
            continue
        place = made["metadata"].get("namespace", "")
        if api.delete(resource_of(made), place, made["metadata"]["name"]):
            names.append(name_of(made))
    deadline = time.monotonic() + wait_s
    left = [made for made in objects if name_of(made) in names]
    while left:
        left = [
            made
            for made in left
            if api.get(
                resource_of(made), made["metadata"].get("namespace", ""), made["metadata"]["name"]
            )
        ]
        if left and time.monotonic() > deadline:
            raise ClusterError(
                f"{name_of(left[0])} is still there after {wait_s:g} s; where the operator is "
                "gone, nobody takes its finalizer off: install it again, or remove the finalizer"
            )
        if left:
            time.sleep(POLL_S)
    return Removed(
        names=tuple(names), kept=tuple(name_of(made) for made in objects if made["kind"] in kept)
    )
