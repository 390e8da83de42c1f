"""Definitions of the resources that the manifests use: KubeRay's and Prometheus'."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SCHEMAS = Path(os.environ.get("SONORAY_SHARED_DATA", ROOT.parent / "shared" / "data")) / "k8s"
MONITORING = {
    "PodMonitor": "podmonitors",
    "ServiceMonitor": "servicemonitors",
    "PrometheusRule": "prometheusrules",
}


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


def wait_established(kubectl: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """Wait for all definitions; `kubectl wait` fails at once on one that has no conditions yet."""
    deadline = time.monotonic() + 60
    while True:
        done = kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=10s")
        if done.returncode == 0:
            return
        assert time.monotonic() < deadline, done.stderr
        time.sleep(0.5)


def without_closed(schema: Any) -> Any:
    """The catalogue closes objects, which a definition may not say."""
    if isinstance(schema, dict):
        return {
            key: without_closed(value)
            for key, value in schema.items()
            if not (key == "additionalProperties" and value is False)
        }
    return [without_closed(each) for each in schema] if isinstance(schema, list) else schema
