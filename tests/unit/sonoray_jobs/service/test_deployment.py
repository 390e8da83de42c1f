import pytest
from ray.serve.schema import (
    ApplicationStatus,
    ApplicationStatusOverview,
    DeploymentStatusOverview,
    ServeStatus,
)

from sonoray_jobs.service.deployment import _wait_running
from sonoray_serve.app import APP_NAME


def report(
    monkeypatch: pytest.MonkeyPatch, *statuses: ApplicationStatus
) -> list[ApplicationStatus]:
    """Let Ray Serve say these about the application, one after another, and the last for ever.

    Returns what it has said, as it says it.
    """
    left, said = list(statuses), []

    def status() -> ServeStatus:
        deployments = {
            name: DeploymentStatusOverview(
                status="HEALTHY" if name == "vision" else "UPDATING",
                status_trigger="UNSPECIFIED",
                replica_states={},
                message="",
            )
            for name in ("vision", "engine")
        }
        said.append(left.pop(0) if len(left) > 1 else left[0])
        application = ApplicationStatusOverview(
            status=said[-1],
            message="it fails\nTraceback",
            last_deployed_time_s=0.0,
            deployments=deployments,
        )
        return ServeStatus(applications={APP_NAME: application})

    monkeypatch.setattr("ray.serve.status", status)
    return said


def test_start_is_waited_for(monkeypatch: pytest.MonkeyPatch):
    said = report(monkeypatch, ApplicationStatus.DEPLOYING, ApplicationStatus.RUNNING)
    _wait_running(60.0)
    assert said == [ApplicationStatus.DEPLOYING, ApplicationStatus.RUNNING]


def test_wait_for_a_start_ends(monkeypatch: pytest.MonkeyPatch):
    report(monkeypatch, ApplicationStatus.DEPLOYING)
    with pytest.raises(TimeoutError, match=r"start_timeout_s = 0\.1: engine$"):
        _wait_running(0.1)
    report(monkeypatch, ApplicationStatus.DEPLOY_FAILED)
    with pytest.raises(RuntimeError, match="it fails"):
        _wait_running(60.0)
    monkeypatch.setattr("ray.serve.status", ServeStatus)
    with pytest.raises(RuntimeError, match="deleted"):
        _wait_running(60.0)
