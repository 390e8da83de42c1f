"""Apply a site: checks first, then server-side apply in order, then waiting with progress.

Each apply leaves a revision, a ConfigMap with what was applied, so that `sonoray k8s rollback` can
go back to it. Old ConfigMaps of roads and services stay with their revisions: a cluster that still
runs keeps the files it began with.
"""

import base64
import gzip
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sonoray.config.canonical import changed_settings
from sonoray.errors import ClusterError
from sonoray_jobs.cluster.kubernetes.checks.walk import entries, inside
from sonoray_jobs.cluster.kubernetes.live.api_server import CONFIG_MAP, Api, ApiError, resource_of
from sonoray_jobs.cluster.kubernetes.live.preflight import check_cluster
from sonoray_jobs.cluster.kubernetes.manifests.naming import Object, metadata
from sonoray_jobs.cluster.kubernetes.render_site import name_of
from sonoray_jobs.cluster.kubernetes.site import Site

logger = logging.getLogger(__name__)

POLL_S = 2.0
KEPT_REVISIONS = 10
REVISION_LABEL = "sonoray.io/revision"
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
    unchanged: int
    waited_s: float = 0.0

    def lines(self) -> list[str]:
        """For a person."""
        told = [f"created {name}" for name in self.created]
        told += [f"changed {name}" for name in self.changed]
        end = f"{self.unchanged} objects were as they should be; revision {self.revision}"
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

    def lines(self) -> list[str]:
        """For a person."""
        told = [f"+ {name}" for name in self.created]
        for name, fields in self.changed.items():
            told.append(f"~ {name}")
            told += [
                f"    {key}: {_short(old)} -> {_short(new)}" for key, (old, new) in fields.items()
            ]
        return told or ["nothing would change"]

    def to_json(self) -> dict[str, Any]:
        """For a script."""
        return asdict(self)


def diff(api: Api, objects: Sequence[Object]) -> Difference:
    """Find out what applying `objects` would change; the server itself fills in defaults."""
    created, changed = [], {}
    for made in objects:
        live = api.get(
            resource_of(made),
            inside(made, "metadata").get("namespace", ""),
            made["metadata"]["name"],
        )
        if live is None:
            created.append(name_of(made))
            continue
        would = api.apply(with_live_replicas(made, live), dry_run=True)
        if fields := changed_settings(_plain(live), _plain(would)):
            changed[name_of(made)] = fields
    return Difference(created=tuple(created), changed=changed)


def apply(api: Api, site: Site, objects: Sequence[Object], *, wait_s: float) -> Applied:
    """Apply objects that were checked.

    Args:
        api: the cluster.
        site: whose.
        objects: in their order.
        wait_s: time for them to become ready; 0 does not wait.

    Raises:
        ClusterError: the cluster lacks something, and nothing was applied; or an object failed, and
            the message says which were applied; or they are not ready in time.
    """
    check_cluster(api, objects, site.namespace)
    created: list[str] = []
    changed: list[str] = []
    unchanged = 0
    for made in objects:
        place = made["metadata"].get("namespace", "")
        try:
            before = api.get(resource_of(made), place, made["metadata"]["name"])
            after = api.apply(with_live_replicas(made, before))
        except ClusterError as error:
            done = ", ".join([*created, *changed]) or "nothing"
            raise ClusterError(
                f"{error}; applied before it: {done}; mend it and apply again"
            ) from None
        if before is None:
            created.append(name_of(made))
        elif changed_settings(_plain(before), _plain(after)):
            changed.append(name_of(made))
        else:
            unchanged += 1
        logger.debug("applied %s", name_of(made))
    revision = (
        _keep_revision(api, site, objects) if created or changed else latest_revision(api, site)
    )
    waited_s = wait_ready(api, objects, wait_s) if wait_s else 0.0
    return Applied(
        namespace=site.namespace,
        revision=revision,
        created=tuple(created),
        changed=tuple(changed),
        unchanged=unchanged,
        waited_s=waited_s,
    )


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
            missing = _READY[made["kind"]](live or {})
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


def _job(live: Object) -> str:
    status = inside(live, "status")
    if status.get("succeeded"):
        return ""
    return f"{status.get('failed', 0)} tries failed" if status.get("failed") else "it runs"


_READY = {
    "Deployment": _deployment,
    "Job": _job,
    "RayCluster": _condition("RayClusterProvisioned"),
    "RayService": _condition("Ready"),
}


def latest_revision(api: Api, site: Site) -> int:
    """The number of the newest revision, 0 where there is none."""
    return max((number for number, _ in revisions(api, site)), default=0)


def revisions(api: Api, site: Site) -> list[tuple[int, Object]]:
    """All revisions, oldest first, with their ConfigMaps."""
    maps = api.items(CONFIG_MAP, site.namespace, labelSelector=REVISION_LABEL)
    found = [(int(each["metadata"]["labels"][REVISION_LABEL]), each) for each in maps]
    return sorted(found, key=lambda pair: pair[0])


def objects_of(revision: Object) -> list[Object]:
    """What was applied with a revision."""
    packed = base64.b64decode(revision["binaryData"]["objects"])
    found: list[Object] = json.loads(gzip.decompress(packed))
    return found


def _keep_revision(api: Api, site: Site, objects: Sequence[Object]) -> int:
    """Keep what is applied now, with what earlier revisions applied of other parts."""
    there = revisions(api, site)
    number = (there[-1][0] if there else 0) + 1
    new = {name_of(each) for each in objects}
    old = [each for each in objects_of(there[-1][1]) if name_of(each) not in new] if there else []
    packed = gzip.compress(json.dumps([*old, *objects]).encode(), mtime=0)
    made = metadata(site, f"sonoray-revision-{number:06d}", "revision")
    made["labels"][REVISION_LABEL] = str(number)
    made["annotations"] = {
        "sonoray.io/image": site.image_name,
        "sonoray.io/applied": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    api.apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": made,
            "immutable": True,
            "binaryData": {"objects": base64.b64encode(packed).decode()},
        }
    )
    for _, stale in there[: max(0, len(there) + 1 - KEPT_REVISIONS)]:
        api.delete(CONFIG_MAP, site.namespace, stale["metadata"]["name"])
    return number


def rollback(api: Api, site: Site, to: int | None, *, wait_s: float) -> Applied:
    """Apply an earlier revision again, as a new one.

    Args:
        api: the cluster.
        site: whose.
        to: the revision's number; by default the one before the newest.
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
            f"no revision {to or 'before this one'} to go back to; there are: {known}"
        )
    return apply(api, site, objects_of(there[to]), wait_s=wait_s)


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


__all__ = ["ApiError", "Applied", "Difference", "apply", "diff", "rollback", "wait_ready"]
