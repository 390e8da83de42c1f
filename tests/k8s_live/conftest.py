"""A real control plane for the whole run, with the definitions of Ray's and Prometheus' objects.

`make test-k8s` runs these tests, and only it: SONORAY_TEST_K8S=1. What is not built skips with the
reason.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from control_plane import ControlPlane, missing
from resource_definitions import SCHEMAS, definitions, wait_established

if not os.environ.get("SONORAY_TEST_K8S"):
    collect_ignore_glob = ["*"]


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A running control plane, with KubeRay's operator and kwok."""
    if reason := missing("etcd", "controlplane", "ray-operator", "kwok", "kwok-stages.yaml"):
        pytest.skip(reason)
    if not SCHEMAS.is_dir():
        pytest.skip(f"no resource definitions at {SCHEMAS}; set SONORAY_SHARED_DATA")
    made = ControlPlane(tmp_path_factory.mktemp("plane"))
    try:
        made.start()
        os.environ["KUBECONFIG"] = str(made.kubeconfig)
        for each in definitions():
            apply_definition(each)
        wait_established(run_kubectl)
        made.start_operator()
        made.start_kwok()
        yield made
    finally:
        made.stop()


@pytest.fixture
def api(plane: ControlPlane) -> Any:
    from sonoray_jobs.cluster.kubernetes.live.api_server import connect

    return connect()


def apply_definition(made: dict[str, Any]) -> None:
    kubectl("apply", "--server-side", "-f", "-", given=json.dumps(made))


def kubectl(*words: str, given: str | None = None) -> None:
    done = run_kubectl(*words, given=given)
    assert done.returncode == 0, done.stderr


def run_kubectl(*words: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["kubectl", *words], input=given, capture_output=True, text=True, check=False
    )
