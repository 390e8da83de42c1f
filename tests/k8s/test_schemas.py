"""Every object against the published schemas; unknown fields are refused, as by a strict apply."""

import copy
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

ROOT = Path(__file__).resolve().parents[2]
SCHEMAS = Path(os.environ.get("SONORAY_SHARED_DATA", ROOT.parent / "shared" / "data")) / "k8s"
CORE = {
    "Namespace": "io.k8s.api.core.v1.Namespace",
    "ServiceAccount": "io.k8s.api.core.v1.ServiceAccount",
    "ConfigMap": "io.k8s.api.core.v1.ConfigMap",
    "PersistentVolumeClaim": "io.k8s.api.core.v1.PersistentVolumeClaim",
    "ResourceQuota": "io.k8s.api.core.v1.ResourceQuota",
    "LimitRange": "io.k8s.api.core.v1.LimitRange",
    "Service": "io.k8s.api.core.v1.Service",
    "Deployment": "io.k8s.api.apps.v1.Deployment",
    "Job": "io.k8s.api.batch.v1.Job",
    "CronJob": "io.k8s.api.batch.v1.CronJob",
    "NetworkPolicy": "io.k8s.api.networking.v1.NetworkPolicy",
    "Ingress": "io.k8s.api.networking.v1.Ingress",
    "PodDisruptionBudget": "io.k8s.api.policy.v1.PodDisruptionBudget",
    "PriorityClass": "io.k8s.api.scheduling.v1.PriorityClass",
}


def closed(schema: Any) -> Any:
    """Refuse unknown fields, as strict field validation does."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("format") == "int-or-string" or schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    result = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not (
        schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    ):
        result["additionalProperties"] = False
    return result


def with_defaults(value: Any, schema: dict[str, Any]) -> Any:
    """Fill in the schema's defaults, as the API server does before it validates."""
    if isinstance(value, list):
        return [with_defaults(item, schema.get("items", {})) for item in value]
    if not isinstance(value, dict):
        return value
    properties = schema.get("properties", {})
    defaults = {
        key: copy.deepcopy(field["default"])
        for key, field in properties.items()
        if "default" in field and key not in value
    }
    return {
        key: with_defaults(item, properties.get(key, {}))
        for key, item in (defaults | value).items()
    }


@cache
def custom(kind: str) -> dict[str, Any]:
    file = SCHEMAS / "kuberay-v1.7.0-crds" / f"ray.io_{kind.lower()}s.json"
    versions = json.loads(file.read_text(encoding="utf-8"))["spec"]["versions"]
    [version] = [version for version in versions if version["name"] == "v1"]
    found: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return found


@cache
def validator(kind: str) -> Draft202012Validator | None:
    if kind in CORE:
        file = SCHEMAS / "kubernetes-1.36-definitions.json"
        schema = json.loads(file.read_text(encoding="utf-8"))
        # parsed once for each kind: only what the kind refers to is read
        return Draft202012Validator(closed({**schema, "$ref": f"#/definitions/{CORE[kind]}"}))
    if kind in ("RayCluster", "RayJob", "RayService"):
        return Draft202012Validator(closed(custom(kind)))
    file = SCHEMAS / "crds-catalog" / "monitoring.coreos.com" / f"{kind.lower()}_v1.json"
    return Draft202012Validator(json.loads(file.read_text(encoding="utf-8")))


def problems(item: dict[str, Any]) -> list[str]:
    """What the API server would refuse or drop."""
    if not SCHEMAS.is_dir():
        pytest.skip(f"no schemas at {SCHEMAS}; set SONORAY_SHARED_DATA")
    kind = item["kind"]
    if kind.startswith("Ray"):
        item = with_defaults(item, custom(kind))
    return [
        f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}"
        for error in validator(kind).iter_errors(item)
    ]


def test_objects_fit_their_schemas(manifests: Any) -> None:
    kinds = {each["kind"] for each in manifests.objects}
    assert {"RayCluster", "RayJob", "RayService", "NetworkPolicy"} <= kinds
    found = {
        f"{each['kind']}/{each['metadata']['name']}": problems(each) for each in manifests.objects
    }
    assert {name: told for name, told in found.items() if told} == {}


@pytest.mark.parametrize("kind", ["RayService", "Deployment"])
def test_a_misspelt_field_and_a_wrong_type_are_found(production: Any, kind: str) -> None:
    item = copy.deepcopy(production.only(kind))
    item["spec"]["templat"] = {}
    [problem] = problems(item)
    assert "templat" in problem
    del item["spec"]["templat"]
    item["metadata"] = "x"
    assert any("not of type 'object'" in problem for problem in problems(item))
