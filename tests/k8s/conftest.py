"""The manifests as the cluster would get them: base and overlays, rendered without kubectl."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

K8S = Path(__file__).resolve().parents[2] / "k8s"
VARIANTS = ("base", "overlays/local", "overlays/gpu")

Object = dict[str, Any]


class Manifests:
    """The objects of one variant: the base, or an overlay applied to it."""

    def __init__(self, variant: str) -> None:
        self.variant = variant
        self.folder = K8S / variant
        self.kustomization: Object = documents(self.folder / "kustomization.yaml")[0]
        self.objects = self._render()

    def of_kind(self, kind: str) -> list[Object]:
        return [item for item in self.objects if item["kind"] == kind]

    def only(self, kind: str) -> Object:
        [item] = self.of_kind(kind)
        return item

    def ray_clusters(self) -> Iterator[tuple[str, Object]]:
        """Name and cluster specification of RayCluster, RayJob and RayService."""
        for kind in ("RayCluster", "RayJob", "RayService"):
            for item in self.of_kind(kind):
                yield item["metadata"]["name"], cluster_spec(item)

    def ray_templates(self) -> Iterator[Object]:
        for _, spec in self.ray_clusters():
            yield spec["headGroupSpec"]["template"]
            for group in spec["workerGroupSpecs"]:
                yield group["template"]

    def pod_templates(self) -> Iterator[Object]:
        yield from self.ray_templates()
        yield self.only("RayJob")["spec"]["submitterPodTemplate"]
        yield self.only("Deployment")["spec"]["template"]

    def pods_of(self, component: str) -> Iterator[tuple[int, Object]]:
        """How many pods of which template run while a component is up."""
        for item in self.objects:
            if item["metadata"]["labels"]["app.kubernetes.io/component"] != component:
                continue
            if item["kind"] == "Deployment":
                yield item["spec"]["replicas"], item["spec"]["template"]
            elif item["apiVersion"] == "ray.io/v1":
                spec = cluster_spec(item)
                yield 1, spec["headGroupSpec"]["template"]
                for group in spec["workerGroupSpecs"]:
                    yield group["replicas"], group["template"]
                if "submitterPodTemplate" in item["spec"]:
                    yield 1, item["spec"]["submitterPodTemplate"]

    def served(self) -> Object:
        """The Serve configuration of the RayService."""
        config: Object = yaml.safe_load(self.only("RayService")["spec"]["serveConfigV2"])
        return config

    def _render(self) -> list[Object]:
        base: Object = documents(K8S / "base" / "kustomization.yaml")[0]
        objects = [
            document
            for resource in base["resources"]
            for document in documents(K8S / "base" / resource)
        ]
        road = (self.folder / "road.toml").read_text(encoding="utf-8")
        labels = {"app.kubernetes.io/component": "platform"}
        objects.append(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "sonoray-road", "labels": labels},
                "data": {"road.toml": road},
            }
        )
        for patch in self.kustomization.get("patches", []):
            [operations] = documents(self.folder / patch["path"])
            target = patch["target"]
            matches = [
                index
                for index, item in enumerate(objects)
                if item["kind"] == target["kind"]
                and target.get("name") in (None, item["metadata"]["name"])
            ]
            assert matches, patch
            for index in matches:
                objects[index] = patched(objects[index], operations)
        return objects


def documents(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def cluster_spec(item: Object) -> Object:
    spec = item["spec"]
    found: Object = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
    return found


def patched(document: Object, operations: list[Object]) -> Object:
    """Apply RFC 6902 `add` and `replace`, which is all that the overlays use."""
    document = copy.deepcopy(document)
    for operation in operations:
        *parents, last = operation["path"].strip("/").split("/")
        target: Any = document
        for part in parents:
            target = target[int(part) if isinstance(target, list) else part]
        key = int(last) if isinstance(target, list) else last
        assert operation["op"] in {"add", "replace"}, operation
        if operation["op"] == "replace":
            assert key in target if isinstance(target, dict) else key < len(target), operation
        target[key] = operation["value"]
    return document


@pytest.fixture(scope="session", params=VARIANTS)
def manifests(request: pytest.FixtureRequest) -> Manifests:
    """Each variant in turn."""
    return Manifests(request.param)


@pytest.fixture(scope="session")
def variants() -> dict[str, Manifests]:
    """All variants, by name."""
    return {name: Manifests(name) for name in VARIANTS}
