"""A service is ready when what was applied serves, not what was there before."""

import copy
from typing import Any

import pytest

from sonoray.errors import ClusterError
from sonoray_jobs.cluster.kubernetes.live.api_server import Resource
from sonoray_jobs.cluster.kubernetes.live.readiness import missing_of, wait_ready
from sonoray_jobs.cluster.kubernetes.render_site import render
from sonoray_jobs.cluster.kubernetes.site import load_site


def service(*, generation: int, observed: int, ready: str, upgrade: str) -> dict[str, Any]:
    return {
        "kind": "RayService",
        "metadata": {"generation": generation},
        "status": {
            "observedGeneration": observed,
            "conditions": [
                {"type": "Ready", "status": ready, "message": "no endpoint"},
                {"type": "UpgradeInProgress", "status": upgrade},
            ],
        },
    }


@pytest.mark.parametrize(
    ("live", "missing"),
    [
        (service(generation=1, observed=1, ready="True", upgrade="False"), ""),
        (service(generation=2, observed=1, ready="True", upgrade="False"), "not looked at it"),
        (service(generation=2, observed=2, ready="True", upgrade="True"), "a new cluster comes up"),
        (service(generation=2, observed=2, ready="False", upgrade="False"), "no endpoint"),
        ({}, "not looked at it"),
    ],
)
def test_a_service_is_ready_once_its_upgrade_is_over(live: dict[str, Any], missing: str) -> None:
    told = missing_of("RayService", live)
    assert (missing in told) if missing else told == ""


def test_a_service_that_waits_says_what_its_application_says() -> None:
    live = service(generation=1, observed=1, ready="False", upgrade="False")
    failed = {"status": "DEPLOY_FAILED", "message": "Traceback\n  ...\nno model 'm' version 1"}
    live["status"]["pendingServiceStatus"] = {"applicationStatuses": {"sonoray": failed}}
    told = missing_of("RayService", live)
    assert told == "no endpoint; sonoray is DEPLOY_FAILED: no model 'm' version 1"


class Keeping:
    """An API server whose operator made no new cluster."""

    def __init__(self, cluster: dict[str, Any], live: dict[str, Any]) -> None:
        self.there = {"RayCluster": cluster, "RayService": live}

    def get(self, resource: Resource, _namespace: str, _name: str) -> dict[str, Any]:
        return self.there[resource.kind]


def test_a_service_whose_operator_keeps_the_cluster_of_before_is_not_ready() -> None:
    site, road = load_site("dev-cpu")
    [made] = [each for each in render(site, road).parts["service"] if each["kind"] == "RayService"]
    live = {**made, **service(generation=2, observed=2, ready="True", upgrade="False")}
    live["metadata"] = {**made["metadata"], "generation": 2}
    live["spec"] = made["spec"]
    live["status"]["activeServiceStatus"] = {"rayClusterName": "c"}
    cluster = {
        "kind": "RayCluster",
        "metadata": {"name": "c"},
        "spec": made["spec"]["rayClusterConfig"],
    }
    assert wait_ready(Keeping(cluster, live), [made], 0.1) < 0.1  # type: ignore[arg-type]
    earlier = copy.deepcopy(cluster)
    [container] = earlier["spec"]["headGroupSpec"]["template"]["spec"]["containers"]
    container["image"] = "sonoray:before"
    with pytest.raises(ClusterError, match=r"keeps the cluster of before; .*IncrementalUpgrade"):
        wait_ready(Keeping(earlier, live), [made], 0.0)  # type: ignore[arg-type]
