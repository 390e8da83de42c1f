"""Apply a site: checks first, then server-side apply in order, then waiting with progress.

Each apply that changes something leaves a revision, a ConfigMap with what was applied, so that
`sonoray k8s rollback` can go back to it. What the revision before had and the site no longer has is
deleted: a way into the network that the site file closes is closed. Old ConfigMaps of roads and
services stay: a cluster that still runs keeps the files it began with.
"""

import json
import logging
from collections.abc import Sequence, Set
from dataclasses import asdict, dataclass, field
from typing import Any

from sonoray.config.canonical import changed_settings
from sonoray.errors import ClusterError
from sonoray_jobs.cluster.kubernetes.live.api_server import Api, resource_of
from sonoray_jobs.cluster.kubernetes.live.contents import part_of
from sonoray_jobs.cluster.kubernetes.live.preflight import check_cluster
from sonoray_jobs.cluster.kubernetes.live.readiness import wait_ready
from sonoray_jobs.cluster.kubernetes.live.revisions import (
    keep_revision,
    latest_revision,
    objects_of,
    revisions,
)
from sonoray_jobs.cluster.kubernetes.manifests.naming import Object
from sonoray_jobs.cluster.kubernetes.refusals.walk import entries, inside
from sonoray_jobs.cluster.kubernetes.site import Site
from sonoray_jobs.cluster.kubernetes.yaml_files import name_of, namespace_of

logger = logging.getLogger(__name__)

_PRUNED = {
    "NetworkPolicy",
    "Ingress",
    "CronJob",
    "PodDisruptionBudget",
    "PodMonitor",
    "ServiceMonitor",
    "PrometheusRule",
}
_SERVER_FIELDS = (
    "managedFields",
    "resourceVersion",
    "uid",
    "generation",
    "creationTimestamp",
    "selfLink",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Applied:
    """What an apply did."""

    namespace: str
    revision: int
    created: tuple[str, ...]
    changed: tuple[str, ...]
    deleted: tuple[str, ...]
    unchanged: int
    waited_s: float = 0.0

    def lines(self) -> list[str]:
        """For a person."""
        told = [f"created {name}" for name in self.created]
        told += [f"changed {name}" for name in self.changed]
        told += [f"deleted {name}" for name in self.deleted]
        kept = f"{self.unchanged} objects unchanged; " if self.unchanged else ""
        end = f"{kept}revision {self.revision}"
        if self.waited_s:
            end += f"; ready after {self.waited_s:.0f} s"
        return [*told, f"namespace {self.namespace}: {end}"]

    def to_json(self) -> dict[str, Any]:
        """For a script."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """What an apply would change."""

    created: tuple[str, ...] = ()
    changed: dict[str, dict[str, tuple[Any, Any]]] = field(default_factory=dict)
    """By object: by field, what is there and what would be."""
    deleted: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """For a person."""
        told = [f"+ {name}" for name in self.created]
        for name, fields in self.changed.items():
            told.append(f"~ {name}")
            told += [
                f"    {key}: {_short(old)} -> {_short(new)}" for key, (old, new) in fields.items()
            ]
        told += [f"- {name}" for name in self.deleted]
        return told or ["nothing would change"]

    def to_json(self) -> dict[str, Any]:
        """For a script."""
        return asdict(self)


def diff(api: Api, site: Site, objects: Sequence[Object], parts: Set[str]) -> Difference:
    """Find out what `apply` would change; the server itself fills in defaults."""
    created, changed = [], {}
    for made in objects:
        live = api.get(resource_of(made), namespace_of(made), made["metadata"]["name"])
        if live is None:
            created.append(name_of(made))
            continue
        would = api.apply(with_live_replicas(made, live), dry_run=True)
        if fields := changed_settings(_plain(live), _plain(would)):
            changed[name_of(made)] = fields
    stale = stale_objects(latest_revision(api, site)[1], objects, parts)
    return Difference(created=tuple(created), changed=changed, deleted=tuple(map(name_of, stale)))


def apply(
    api: Api, site: Site, objects: Sequence[Object], *, parts: Set[str], wait_s: float
) -> Applied:
    """Apply objects that were checked, and delete what the site no longer has.

    Args:
        api: the cluster.
        site: whose.
        objects: in their order.
        parts: the parts of the site that `objects` is the whole of.
        wait_s: time for them to become ready; 0 does not wait.

    Raises:
        ClusterError: the cluster lacks something, and nothing was applied; or an object failed, and
            the message says which were applied; or they are not ready in time.
    """
    check_cluster(api, objects, site.namespace)
    revision, old = latest_revision(api, site)
    created: list[str] = []
    changed: list[str] = []
    deleted: list[str] = []
    unchanged = 0
    try:
        for made in objects:
            before = api.get(resource_of(made), namespace_of(made), made["metadata"]["name"])
            after = api.apply(with_live_replicas(made, before))
            if before is None:
                created.append(name_of(made))
            elif changed_settings(_plain(before), _plain(after)):
                changed.append(name_of(made))
            else:
                unchanged += 1
            logger.debug("applied %s", name_of(made))
        for stale in stale_objects(old, objects, parts):
            if api.delete(resource_of(stale), namespace_of(stale), stale["metadata"]["name"]):
                deleted.append(name_of(stale))
    except ClusterError as error:
        done = ", ".join([*created, *changed, *deleted]) or "nothing"
        raise ClusterError(f"{error}; applied before it: {done}; mend it and apply again") from None
    if created or changed or deleted:
        revision = keep_revision(api, site, objects, parts)
    waited_s = wait_ready(api, objects, wait_s) if wait_s else 0.0
    return Applied(
        namespace=site.namespace,
        revision=revision,
        created=tuple(created),
        changed=tuple(changed),
        deleted=tuple(deleted),
        unchanged=unchanged,
        waited_s=waited_s,
    )


def stale_objects(
    old: Sequence[Object], objects: Sequence[Object], parts: Set[str]
) -> list[Object]:
    """What the revision before had in these parts and `objects` no longer has.

    Nothing that holds data, that other tenants share, or that what still runs began with.
    """
    names = {name_of(each) for each in objects}
    return [
        each
        for each in old
        if each["kind"] in _PRUNED and part_of(each) in parts and name_of(each) not in names
    ]


def with_live_replicas(made: Object, live: Object | None) -> Object:
    """A scaling cluster as it is applied: with as many workers as its autoscaler has asked for.

    Worker groups are one list to the server, so that an apply that did not know of these workers
    would take them away.
    """
    if live is None or made["kind"] != "RayCluster":
        return made
    if not made["spec"].get("enableInTreeAutoscaling"):
        return made
    there = {
        group.get("groupName"): group.get("replicas", 0)
        for group in entries(inside(live, "spec").get("workerGroupSpecs"))
    }
    groups = []
    for group in made["spec"]["workerGroupSpecs"]:
        asked = there.get(group["groupName"], group["replicas"])
        within = min(max(asked, group["minReplicas"]), group["maxReplicas"])
        groups.append({**group, "replicas": within})
    return {**made, "spec": {**made["spec"], "workerGroupSpecs": groups}}


def rollback(
    api: Api, site: Site, to: int | None, *, written: Sequence[Object], wait_s: float
) -> Applied:
    """Apply an earlier revision again, as a new one; warn where the site file says otherwise.

    Args:
        api: the cluster.
        site: whose.
        to: the revision's number; by default the one before the newest.
        written: all objects that the site file makes now.
        wait_s: time to become ready; 0 does not wait.

    Raises:
        ClusterError: there is no such revision.
    """
    there = dict(revisions(api, site))
    numbers = sorted(there)
    if to is None and len(numbers) > 1:
        to = numbers[-2]
    if to not in there:
        known = ", ".join(map(str, numbers)) or "none"
        raise ClusterError(
            f"no revision {to or 'before this one'} to go back to; there are: {known}; see: "
            "sonoray k8s history"
        )
    objects = objects_of(there[to])
    parts = {part_of(each) for each in objects}
    now = {name_of(each): each for each in written if part_of(each) in parts}
    others = [name for each in objects if now.get(name := name_of(each), each) != each]
    others += sorted(set(now) - set(map(name_of, objects)))
    if others:
        logger.warning(
            "the site file says otherwise of %s, and the next apply would undo this rollback: put "
            "it back too; sonoray k8s diff shows what differs",
            ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else ""),
        )
    return apply(api, site, objects, parts=parts, wait_s=wait_s)


def _plain(live: Object) -> Object:
    """An object without what the server keeps of it."""
    kept = {key: value for key, value in live.items() if key != "status"}
    kept["metadata"] = {
        key: value for key, value in inside(live, "metadata").items() if key not in _SERVER_FIELDS
    }
    return kept


def _short(value: Any) -> str:  # noqa: ANN401 - JSON
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
