"""The ways through manifests that the checks share: to Ray's clusters, and to all Pods."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from sonoray_jobs.cluster.kubernetes.manifests.naming import Object

_CLUSTER_FIELDS = {
    "RayCluster": (),
    "RayJob": ("rayClusterSpec",),
    "RayService": ("rayClusterConfig",),
    "RayCronJob": ("jobTemplate", "rayClusterSpec"),
}
WORKLOADS = {
    "Deployment": ("template",),
    "Job": ("template",),
    "CronJob": ("jobTemplate", "spec", "template"),
}

RUN_PODS = {*WORKLOADS, *_CLUSTER_FIELDS}
"""Kinds of objects for which controllers make Pods."""

Check = Callable[[Object], Iterator[str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class PodPlace:
    """A Pod template and where it stands."""

    where: str
    """As in workers of group `train`."""
    spec: Object
    labels: dict[str, str]
    number: int
    """How many of them there are at least."""


def inside(value: Any, *path: str) -> Any:  # noqa: ANN401 - any YAML value
    """What lies at a path of nested tables; an empty table where nothing does."""
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return {} if value is None else value


def entries(value: Any) -> list[Object]:  # noqa: ANN401 - any YAML value
    """The tables of a list."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def cluster_of(made: Object) -> Object | None:
    """The cluster specification of one of Ray's objects."""
    path = _CLUSTER_FIELDS.get(made.get("kind", ""))
    if path is None:
        return None
    found = inside(made.get("spec"), *path)
    return found if isinstance(found, dict) else {}


def groups_of(cluster: Object) -> list[Object]:
    """The worker groups."""
    return entries(cluster.get("workerGroupSpecs"))


def pods_of(made: Object) -> Iterator[PodPlace]:
    """All Pod templates of an object."""
    kind, spec = made.get("kind", ""), inside(made.get("spec"))
    if (path := WORKLOADS.get(kind)) is not None:
        replicas = spec.get("replicas", 1)
        yield _place("its Pod", inside(spec, *path), replicas)
    cluster = cluster_of(made)
    if cluster is None:
        return
    yield _place("the head", inside(cluster, "headGroupSpec", "template"), 1)
    for group in groups_of(cluster):
        where = f"group {group.get('groupName')!r}"
        yield _place(where, inside(group, "template"), group.get("replicas", 0))
    if submitter := inside(spec, "submitterPodTemplate"):
        yield _place("the submitter", submitter, 1)


def _place(where: str, template: Any, number: Any) -> PodPlace:  # noqa: ANN401 - YAML
    return PodPlace(
        where=where,
        spec=inside(template, "spec"),
        labels=inside(template, "metadata", "labels"),
        number=number if isinstance(number, int) else 0,
    )
