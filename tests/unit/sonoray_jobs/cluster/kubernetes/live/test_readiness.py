"""A service is ready when what was applied serves, not what was there before."""

from typing import Any

import pytest

from sonoray_jobs.cluster.kubernetes.live.readiness import missing_of


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
