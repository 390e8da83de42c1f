"""How workloads are described, and when a status is a failure."""

from typing import Any

import pytest

from sonoray_jobs.cluster.kubernetes.live.site_status import SiteStatus, describe


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
    assert describe(live) == told


def test_a_status_fails_where_something_waits():
    good = SiteStatus(namespace="n", workloads=(("RayCluster/a", "ready, 1 of 1 workers"),))
    assert good.exit_code == 0
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
