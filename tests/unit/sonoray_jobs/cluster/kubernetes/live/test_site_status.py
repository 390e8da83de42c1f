"""How workloads are described, and when a status is a failure."""

from datetime import UTC, datetime
from typing import Any

import pytest

from sonoray_jobs.cluster.kubernetes.live.api_server import POD, Resource
from sonoray_jobs.cluster.kubernetes.live.site_status import (
    SiteStatus,
    age_s,
    describe,
    is_well,
    status,
)

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
OLD = {"name": "a", "creationTimestamp": "2026-05-04T11:00:00Z"}


def ready(kind: str, status: str, message: str = "") -> dict[str, Any]:
    return {"conditions": [{"type": kind, "status": status, "message": message}]}


@pytest.mark.parametrize(
    ("live", "told"),
    [
        ({"kind": "Deployment", "spec": {"replicas": 2}, "status": {}}, "waits: 0 of 2"),
        (
            {"kind": "Deployment", "spec": {"replicas": 1}, "status": {"availableReplicas": 1}},
            "1 of 1 available",
        ),
        (
            {
                "kind": "RayCluster",
                "status": {
                    **ready("HeadPodReady", "True"),
                    "readyWorkerReplicas": 1,
                    "desiredWorkerReplicas": 2,
                    "maxWorkerReplicas": 8,
                },
            },
            "ready, 1 of 2 workers (at most 8)",
        ),
        (
            {"kind": "RayCluster", "status": ready("HeadPodReady", "False", "no\n node")},
            "waits: no node",
        ),
        ({"kind": "RayService"}, "waits: the operator has not looked at it yet"),
        (
            {"kind": "RayService", "status": {**ready("Ready", "True"), "numServeEndpoints": 2}},
            "ready, 2 endpoints",
        ),
        ({"kind": "RayJob", "status": {"jobStatus": "RUNNING"}}, "RUNNING"),
        (
            {"kind": "RayJob", "status": {"jobStatus": "FAILED", "message": "exit code 2"}},
            "FAILED: exit code 2",
        ),
        ({"kind": "RayJob"}, "new"),
    ],
)
def test_a_workload_is_described(live: dict[str, Any], told: str):
    assert describe({**live, "metadata": OLD}, NOW) == told


def test_what_was_made_lately_starts():
    young = {"name": "a", "creationTimestamp": "2026-05-04T11:55:00Z"}
    assert describe({"kind": "RayService", "metadata": young}, NOW) == (
        "starts: the operator has not looked at it yet"
    )
    failed = {"kind": "RayJob", "metadata": young, "status": {"jobStatus": "FAILED"}}
    assert describe(failed, NOW) == "FAILED: "


@pytest.mark.parametrize(
    ("state", "age", "well"),
    [
        ("Running", "5d", True),
        ("Completed", "5d", True),
        ("Init:1/2", "9m59s", True),
        ("Init:1/2", "10m", False),
        ("PodInitializing", "17s", True),
        ("ContainerCreating", "2m3s", True),
        ("Pending", "1h", False),
        ("Pending", "<unknown>", False),
        ("Init:Error", "3s", False),
        ("CrashLoopBackOff", "3s", False),
        ("ImagePullBackOff", "30s", False),
        ("Terminating", "20s", True),
        ("Terminating", "3d4h", False),
    ],
)
def test_a_pod_that_begins_is_given_ten_minutes(state: str, age: str, well: bool):
    assert is_well(state, age_s(age)) is well


class Served:
    """What the API server answers `status` with."""

    num_requests = 0

    def __init__(self, events: list[dict[str, Any]], pods: list[list[Any]]) -> None:
        self.events, self.pods = events, pods

    def items(self, resource: Resource, _namespace: str, **_: str) -> list[dict[str, Any]]:
        return list(self.events) if resource.kind == "Event" else []

    def table(self, resource: Resource, _namespace: str) -> tuple[list[str], list[list[Any]]]:
        rows = self.pods if resource == POD else []
        return ["Name", "Ready", "Status", "Restarts", "Age"], rows


def event(message: str, **times: Any) -> dict[str, Any]:
    about = {"kind": "Pod", "name": "p"}
    made = {"creationTimestamp": "2020-01-01T00:00:00Z"}
    told = {"involvedObject": about, "reason": "R", "message": message}
    return {"metadata": made, **told, **times}


def test_only_what_the_cluster_warned_of_lately_is_shown():
    now = datetime.now(UTC).isoformat()
    events = [
        event("old", lastTimestamp="2020-01-01T00:00:00Z"),
        event("undated", lastTimestamp=None, eventTime=None),
        event("series", eventTime="2020-01-01T00:00:00Z", series={"lastObservedTime": now}),
        event("new", lastTimestamp=None, eventTime=now),
    ]
    shown = status(Served(events, [["p", "0/1", "Init:0/1", 0, "20s"]]), "n")  # type: ignore[arg-type]
    assert sorted(shown.warnings) == ["Pod/p: R: new", "Pod/p: R: series"]
    assert shown.exit_code == 0
    shown = status(Served([], [["p", "0/1", "Init:0/1", 0, "20m"]]), "n")  # type: ignore[arg-type]
    assert shown.unwell == ("p: Init:0/1",)
    assert shown.exit_code == 1


@pytest.mark.parametrize(
    ("ready", "age", "told"),
    [
        ("1/1", "20s", ["again"]),
        ("0/1", "20s", ["again", "no claim"]),
        # a Secret that somebody deleted under a Pod that has run for days
        ("1/1", "3d", ["again", "no claim"]),
    ],
)
def test_what_a_ready_pod_went_through_at_its_start_is_over(ready: str, age: str, told: list[str]):
    now = datetime.now(UTC).isoformat()
    events = [
        event("no claim", reason="FailedMount", lastTimestamp=now),
        event("again", reason="Unhealthy", lastTimestamp=now),
    ]
    shown = status(Served(events, [["p", ready, "Running", 0, age]]), "n")  # type: ignore[arg-type]
    assert sorted(text.rpartition(": ")[2] for text in shown.warnings) == told


def test_a_status_fails_where_something_waits():
    good = SiteStatus(namespace="n", workloads=(("RayCluster/a", "ready, 1 of 1 workers"),))
    assert good.exit_code == 0
    starts = SiteStatus(namespace="n", workloads=(("RayCluster/a", "starts: no node"),))
    assert starts.exit_code == 0
    waits = SiteStatus(namespace="n", workloads=(("RayCluster/a", "waits: no node"),))
    assert waits.exit_code == 1
    assert SiteStatus(namespace="n", workloads=(), unwell=("a: Pending",)).exit_code == 1


def test_many_pods_are_counted_and_few_are_named():
    unwell = tuple(f"p{number}: Pending" for number in range(300))
    seen = SiteStatus(namespace="n", workloads=(), pods={"Pending": 300}, unwell=unwell)
    lines = seen.lines()
    assert "Pods: 300 Pending" in lines
    assert "  and 290 more" in lines
    assert len(lines) < 20
