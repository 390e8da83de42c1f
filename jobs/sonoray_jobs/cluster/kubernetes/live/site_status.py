"""How a site stands: a constant number of requests, however many nodes and Pods there are.

Pods and nodes are read as tables, of which the server sends the printed columns and no object.
"""

from collections import Counter
from dataclasses import asdict, dataclass, field
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
    """What the cluster warned of lately."""
    num_requests: int = 0

    @property
    def exit_code(self) -> int:
        """1 where something is not as it should be."""
        return int(bool(self.unwell) or any(": " in state for _, state in self.workloads))

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
    before = api.num_requests
    workloads = [
        (f"{resource.kind}/{live['metadata']['name']}", describe({**live, "kind": resource.kind}))
        for resource in _KINDS
        for live in api.items(resource, namespace)
    ]
    columns, rows = api.table(POD, namespace)
    name, state = columns.index("Name"), columns.index("Status")
    pods = Counter(str(row[state]) for row in rows)
    unwell = tuple(f"{row[name]}: {row[state]}" for row in rows if str(row[state]) not in _WELL)
    return SiteStatus(
        namespace=namespace,
        workloads=tuple(workloads),
        pods=dict(pods.most_common()),
        unwell=unwell,
        nodes=_nodes(api),
        warnings=_warnings(api, namespace),
        num_requests=api.num_requests - before,
    )


def describe(live: Object) -> str:
    """How one workload stands; with a colon where it is not as it should be."""
    state = inside(live, "status")
    match live["kind"]:
        case "Deployment":
            wanted, there = (
                inside(live, "spec").get("replicas", 1),
                state.get("availableReplicas", 0),
            )
            return (
                f"{there} of {wanted} available"
                if there >= wanted
                else f"waits: {there} of {wanted}"
            )
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
            return f"{ended}: {message[:200]}" if ended in ("FAILED", "Failed") else ended


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


def _warnings(api: Api, namespace: str) -> tuple[str, ...]:
    events = api.items(_EVENT, namespace, fieldSelector="type=Warning", limit="200")
    events.sort(key=lambda each: str(each.get("lastTimestamp") or each.get("eventTime") or ""))
    texts = []
    for each in reversed(events):
        about = inside(each, "involvedObject")
        text = (
            f"{about.get('kind')}/{about.get('name')}: {each.get('reason')}: {each.get('message')}"
        )
        text = " ".join(text.split())[:300]
        if text not in texts:
            texts.append(text)
    return tuple(texts[:_MOST_EVENTS])


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {state}" for state, number in counts.items()) or "none"
