"""How a site stands: a constant number of requests, however many nodes and Pods there are.

Pods and nodes are read as tables, of which the server sends the printed columns and no object.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from sonoray_jobs.cluster.kubernetes.live.api_server import POD, Api, ApiError, Resource
from sonoray_jobs.cluster.kubernetes.manifests.naming import Object
from sonoray_jobs.cluster.kubernetes.refusals.walk import entries, inside

_KINDS = (
    Resource(api_version="apps/v1", kind="Deployment"),
    Resource(api_version="ray.io/v1", kind="RayCluster"),
    Resource(api_version="ray.io/v1", kind="RayService"),
    Resource(api_version="ray.io/v1", kind="RayJob"),
)
_NODE = Resource(api_version="v1", kind="Node")
_EVENT = Resource(api_version="v1", kind="Event")
_MOST_EVENTS = 10
_MOST_PODS = 10
_WELL = ("Running", "Completed", "Succeeded")
_BEGINS = re.compile(r"Pending|ContainerCreating|PodInitializing|Init:\d+/\d+|Terminating")
"""States of a Pod that pass by themselves, or do not."""
_PATIENCE_S = 600.0
"""How long what begins is not amiss yet: a node that pulls a large image takes minutes."""
_LATELY_S = 900.0
_OF_THE_START = ("FailedScheduling", "FailedMount", "FailedAttachVolume")
"""What a Pod that is ready has behind it, where it was warned of while it began."""
_UNITS_S = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteStatus:
    """What runs in a namespace."""

    namespace: str
    workloads: tuple[tuple[str, str], ...]
    """Kind/name, and how it stands."""
    pods: dict[str, int] = field(default_factory=dict)
    """How many Pods have which status."""
    unwell: tuple[str, ...] = ()
    """Pods that neither run nor ended well."""
    nodes: dict[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    """What the cluster warned of in the last 15 minutes."""
    num_requests: int = 0

    @property
    def exit_code(self) -> int:
        """1 where something is not as it should be; what begins is given ten minutes."""
        amiss = any(state.startswith(("waits: ", "FAILED: ")) for _, state in self.workloads)
        return int(bool(self.unwell) or amiss)

    def lines(self) -> list[str]:
        """For a person."""
        width = max((len(name) for name, _ in self.workloads), default=0)
        told = [f"{name:<{width}}  {state}" for name, state in self.workloads]
        told = told or [f"nothing runs in namespace {self.namespace}; see: sonoray k8s apply"]
        told.append(f"Pods: {_counts(self.pods)}")
        told += [f"  {pod}" for pod in self.unwell[:_MOST_PODS]]
        if len(self.unwell) > _MOST_PODS:
            told.append(f"  and {len(self.unwell) - _MOST_PODS} more")
        if self.nodes:
            told.append(f"nodes: {_counts(self.nodes)}")
        return told + [f"warning: {text}" for text in self.warnings]

    def to_json(self) -> dict[str, Any]:
        """For a script."""
        return asdict(self)


def status(api: Api, namespace: str) -> SiteStatus:
    """Read how everything of a namespace stands."""
    before, now = api.num_requests, datetime.now(UTC)
    workloads = [
        (
            f"{resource.kind}/{live['metadata']['name']}",
            describe({**live, "kind": resource.kind}, now),
        )
        for resource in _KINDS
        for live in api.items(resource, namespace)
    ]
    columns, rows = api.table(POD, namespace)
    name, state, age = (columns.index(each) for each in ("Name", "Status", "Age"))
    ready = {
        str(row[name]): age_s(str(row[age]))
        for row in rows
        if _is_ready(str(row[columns.index("Ready")]))
    }
    return SiteStatus(
        namespace=namespace,
        workloads=tuple(workloads),
        pods=dict(Counter(str(row[state]) for row in rows).most_common()),
        unwell=tuple(
            f"{row[name]}: {row[state]}"
            for row in rows
            if not is_well(str(row[state]), age_s(str(row[age])))
        ),
        nodes=_nodes(api),
        warnings=_warnings(api, namespace, now, ready),
        num_requests=api.num_requests - before,
    )


def is_well(state: str, age_s: float) -> bool:
    """Whether a Pod runs, has ended well, or has not begun long ago."""
    return state in _WELL or (age_s < _PATIENCE_S and _BEGINS.fullmatch(state) is not None)


def age_s(printed: str) -> float:
    """Seconds of an age as the server prints it, such as 3m20s; without end if it does not."""
    parts = re.findall(r"(\d+)([dhms])", printed)
    return sum(int(count) * _UNITS_S[unit] for count, unit in parts) if parts else float("inf")


def describe(live: Object, now: datetime) -> str:
    """How one workload stands; `waits: ` or `FAILED: ` where it is not as it should be."""
    told = _describe(live)
    if told.startswith("waits: ") and _since_s(live["metadata"]["creationTimestamp"], now) < (
        _PATIENCE_S
    ):
        return f"starts: {told.removeprefix('waits: ')}"
    return told


def _describe(live: Object) -> str:
    state = inside(live, "status")
    match live["kind"]:
        case "Deployment":
            wanted = inside(live, "spec").get("replicas", 1)
            there = state.get("availableReplicas", 0)
            of = f"{there} of {wanted}"
            return f"{of} available" if there >= wanted else f"waits: {of}"
        case "RayCluster":
            workers = (
                f"{state.get('readyWorkerReplicas', 0)} of {state.get('desiredWorkerReplicas', 0)}"
            )
            if reason := _false_reason(state, "HeadPodReady"):
                return f"waits: {reason}"
            return f"ready, {workers} workers (at most {state.get('maxWorkerReplicas', 0)})"
        case "RayService":
            reason = _false_reason(state, "Ready")
            endpoints = state.get("numServeEndpoints", 0)
            return f"waits: {reason}" if reason else f"ready, {endpoints} endpoints"
        case _:
            ended = str(state.get("jobStatus") or state.get("jobDeploymentStatus") or "new")
            message = " ".join(str(state.get("message") or "").split())
            return f"FAILED: {message[:200]}" if ended in ("FAILED", "Failed") else ended


def _false_reason(state: Object, kind: str) -> str:
    for each in entries(state.get("conditions")):
        if each.get("type") == kind:
            if each.get("status") == "True":
                return ""
            told = each.get("message") or each.get("reason")
            return " ".join(str(told).split())[:200]
    return "the operator has not looked at it yet"


def _nodes(api: Api) -> dict[str, int]:
    """Nodes by status; empty where the account may not see them."""
    try:
        columns, rows = api.table(_NODE, "")
    except ApiError as error:
        if error.status == 403:
            return {}
        raise
    state = columns.index("Status")
    return dict(Counter(str(row[state]) for row in rows).most_common())


def _is_ready(printed: str) -> bool:
    """Whether all containers are ready, as in 2/2."""
    ready, _, of = printed.partition("/")
    return ready == of != "0"


def _warnings(
    api: Api, namespace: str, now: datetime, ready: Mapping[str, float]
) -> tuple[str, ...]:
    """The newest warnings; none of the start of Pods that are ready, which are given with ages."""
    events = api.items(_EVENT, namespace, fieldSelector="type=Warning", limit="200")
    dated = [(_since_s(_stamp(each), now), each) for each in events]
    texts = []
    for since_s, each in sorted(dated, key=lambda pair: pair[0]):
        if since_s > _LATELY_S:
            break
        about = inside(each, "involvedObject")
        age = ready.get(str(about.get("name"))) if about.get("kind") == "Pod" else None
        began = age is not None and age - since_s < _PATIENCE_S
        if began and each.get("reason") in _OF_THE_START:
            continue
        text = (
            f"{about.get('kind')}/{about.get('name')}: {each.get('reason')}: {each.get('message')}"
        )
        text = " ".join(text.split())[:300]
        if text not in texts:
            texts.append(text)
    return tuple(texts[:_MOST_EVENTS])


def _stamp(event: Object) -> str:
    """When an event was last seen; the newer form keeps that in its series."""
    times = (
        inside(event, "series").get("lastObservedTime"),
        event.get("lastTimestamp"),
        event.get("eventTime"),
        event["metadata"]["creationTimestamp"],
    )
    return str(next(filter(None, times)))


def _since_s(stamp: str, now: datetime) -> float:
    """Seconds since a stamp of the server."""
    return (now - datetime.fromisoformat(stamp)).total_seconds()


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {state}" for state, number in counts.items()) or "none"
