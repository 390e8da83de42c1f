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

if not os.environ.get("SONORAY_TEST_K8S"):
    collect_ignore_glob = ["*"]

ROOT = Path(__file__).resolve().parents[2]
SCHEMAS = Path(os.environ.get("SONORAY_SHARED_DATA", ROOT.parent / "shared" / "data")) / "k8s"
MONITORING = {
    "PodMonitor": "podmonitors",
    "ServiceMonitor": "servicemonitors",
    "PrometheusRule": "prometheusrules",
}


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
        kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        made.start_operator()
        made.start_kwok()
        yield made
    finally:
        made.stop()


@pytest.fixture
def api(plane: ControlPlane) -> Any:
    from sonoray_jobs.cluster.kubernetes.live.api_server import connect

    return connect()


def definitions() -> Iterator[dict[str, Any]]:
    """The definitions of KubeRay 1.7, and those of Prometheus made from their schemas."""
    for path in sorted((SCHEMAS / "kuberay-v1.7.0-crds").glob("*.json")):
        made = json.loads(path.read_text(encoding="utf-8"))
        made.pop("status", None)
        yield made
    for kind, plural in MONITORING.items():
        path = SCHEMAS / "crds-catalog" / "monitoring.coreos.com" / f"{kind.lower()}_v1.json"
        schema = without_closed(json.loads(path.read_text(encoding="utf-8")))
        schema.pop("$schema", None)
        names = {
            "kind": kind,
            "plural": plural,
            "singular": kind.lower(),
            "listKind": f"{kind}List",
        }
        version = {
            "name": "v1",
            "served": True,
            "storage": True,
            "schema": {"openAPIV3Schema": schema},
        }
        yield {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": f"{plural}.monitoring.coreos.com"},
            "spec": {
                "group": "monitoring.coreos.com",
                "scope": "Namespaced",
                "names": names,
                "versions": [version],
            },
        }


def without_closed(schema: Any) -> Any:
    """The catalogue closes objects, which a definition may not say."""
    if isinstance(schema, dict):
        return {
            key: without_closed(value)
            for key, value in schema.items()
            if not (key == "additionalProperties" and value is False)
        }
    return [without_closed(each) for each in schema] if isinstance(schema, list) else schema


def apply_definition(made: dict[str, Any]) -> None:
    kubectl("apply", "--server-side", "-f", "-", given=json.dumps(made))


def kubectl(*words: str, given: str | None = None) -> None:
    done = subprocess.run(
        ["kubectl", *words], input=given, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
