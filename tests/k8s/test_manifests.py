"""Files, schemas, versions and image: the manifests as text."""

import copy
import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "k8s"
SCHEMAS = Path(os.environ.get("SONORAY_SHARED_DATA", ROOT.parent / "shared" / "data")) / "k8s"
CORE_SCHEMAS = {
    "Namespace": "io.k8s.api.core.v1.Namespace",
    "ServiceAccount": "io.k8s.api.core.v1.ServiceAccount",
    "ConfigMap": "io.k8s.api.core.v1.ConfigMap",
    "PersistentVolumeClaim": "io.k8s.api.core.v1.PersistentVolumeClaim",
    "Service": "io.k8s.api.core.v1.Service",
    "Deployment": "io.k8s.api.apps.v1.Deployment",
    "NetworkPolicy": "io.k8s.api.networking.v1.NetworkPolicy",
}
COMPONENTS = {"platform", "cluster", "train", "serve"}


def test_every_file_is_used_and_every_named_file_exists(variants: Any) -> None:
    used = set()
    for manifests in variants.values():
        values = manifests.kustomization
        names = [*values["resources"], *(patch["path"] for patch in values.get("patches", []))]
        names += [name for made in values["configMapGenerator"] for name in made["files"]]
        for name in [*names, "kustomization.yaml"]:
            path = (manifests.folder / name).resolve()
            assert path.exists(), f"{manifests.variant}: {name}"
            used.add(path)
    there = {path for path in K8S.rglob("*") if path.suffix in {".yaml", ".yml", ".toml"}}
    assert {path for path in used if path.is_file()} == there


def test_every_object_has_a_name_of_its_own_and_a_component(manifests: Any) -> None:
    names = [(item["kind"], item["metadata"]["name"]) for item in manifests.objects]
    assert len(names) == len(set(names))
    for item in manifests.objects:
        assert item["metadata"]["labels"]["app.kubernetes.io/component"] in COMPONENTS


def test_kustomize_renders_the_same(manifests: Any) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed; the overlays are rendered by these tests alone")
    command = [kubectl, "kustomize", str(manifests.folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    got = {
        (item["kind"], item["metadata"]["name"]): item for item in yaml.safe_load_all(done.stdout)
    }
    assert len(got) == len(manifests.objects)
    for item in manifests.objects:
        rendered = got[item["kind"], item["metadata"]["name"]]
        labels = rendered["metadata"]["labels"]
        assert labels == {
            **item["metadata"]["labels"],
            "app.kubernetes.io/part-of": "sonoray",
        }
        if item["kind"] != "Namespace":
            assert rendered["metadata"]["namespace"] == "sonoray"
        assert {**rendered, "metadata": {}} == {**item, "metadata": {}}


# schemas


def closed(schema: Any) -> Any:
    """Refuse unknown fields, which the API server would drop without a word."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("format") == "int-or-string":
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


def problems(item: dict[str, Any]) -> list[str]:
    """What the API server would refuse or drop."""
    if not SCHEMAS.is_dir():
        pytest.skip(f"no schemas at {SCHEMAS}; set SONORAY_SHARED_DATA")
    if item["apiVersion"] == "ray.io/v1":
        file = SCHEMAS / "kuberay-v1.7.0-crds" / f"ray.io_{item['kind'].lower()}s.json"
        versions = json.loads(file.read_text(encoding="utf-8"))["spec"]["versions"]
        [version] = [version for version in versions if version["name"] == "v1"]
        schema = version["schema"]["openAPIV3Schema"]
        item = with_defaults(item, schema)
    else:
        file = SCHEMAS / "kubernetes-1.36-definitions.json"
        schema = json.loads(file.read_text(encoding="utf-8"))
        schema["$ref"] = f"#/definitions/{CORE_SCHEMAS[item['kind']]}"
    return [
        f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}"
        for error in Draft202012Validator(closed(schema)).iter_errors(item)
    ]


def test_objects_fit_their_schemas(manifests: Any) -> None:
    for item in manifests.objects:
        found = problems(item)
        assert not found, (item["kind"], item["metadata"]["name"], found)


@pytest.mark.parametrize("kind", ["RayJob", "Deployment"])
def test_schema_check_finds_a_misspelt_field_and_a_wrong_type(variants: Any, kind: str) -> None:
    item = copy.deepcopy(variants["base"].only(kind))
    item["spec"]["templat"] = {}
    [problem] = problems(item)
    assert "templat" in problem
    del item["spec"]["templat"]
    item["metadata"] = "x"
    assert any("not of type 'object'" in problem for problem in problems(item))


# versions and image


def test_ray_version_lock_and_image_tag_are_one(variants: Any) -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    [ray] = re.findall(r"^ray==([\w.]+)", lock, flags=re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    image = f"sonoray:{project['version']}-ray{ray}"
    for manifests in variants.values():
        assert [spec["rayVersion"] for _, spec in manifests.ray_clusters()] == [ray] * 3
        for template in manifests.pod_templates():
            for container in template["spec"]["containers"]:
                assert container["image"] == image
    for name in ("Dockerfile", "README.md"):
        tags = re.findall(r"sonoray:[\w.-]+", (K8S / name).read_text(encoding="utf-8"))
        assert set(tags) == {image}


def test_dockerfile_installs_the_lock_and_runs_as_the_manifests_user(variants: Any) -> None:
    text = (K8S / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", text, flags=re.MULTILINE)
    sources = {name for line in copied for name in line.split()}
    assert all((ROOT / name).exists() for name in sources)
    ignored = (K8S / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert {line[1:] for line in ignored if line.startswith("!")} == sources
    assert "*" in ignored
    assert re.search(
        r"--require-hashes --build-constraints requirements.lock requirements.lock", text
    )
    build, runtime = re.split(r"^FROM .*$", text, flags=re.MULTILINE)[1:]
    assert "uv build --wheel" in build
    [user] = re.findall(r"^USER (\d+):\d+$", runtime, flags=re.MULTILINE)
    for template in variants["base"].pod_templates():
        assert template["spec"]["securityContext"]["runAsUser"] == int(user)
    for setting in ("MLFLOW_DISABLE_TELEMETRY=true", "RAY_USAGE_STATS_ENABLED=0"):
        assert setting in runtime
    assert "wget" in runtime  # the readiness probe that KubeRay gives a Serve worker
