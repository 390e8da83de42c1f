"""The packaged sites, rendered, and the command line's word on what they run."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sonoray_jobs.cli.usage import accepts
from sonoray_jobs.cluster.kubernetes.refusals.walk import PodPlace, cluster_of, pods_of
from sonoray_jobs.cluster.kubernetes.render_site import Rendered, render
from sonoray_jobs.cluster.kubernetes.site import load_site, packaged_sites

Object = dict[str, Any]


class Manifests:
    """The objects of one site, and ways through them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rendered: Rendered = render(*load_site(name))
        self.site = self.rendered.site
        self.objects = self.rendered.objects

    def of_kind(self, kind: str) -> list[Object]:
        return [each for each in self.objects if each["kind"] == kind]

    def only(self, kind: str, name: str | None = None) -> Object:
        [item] = [each for each in self.of_kind(kind) if name in (None, each["metadata"]["name"])]
        return item

    def clusters(self) -> Iterator[tuple[str, Object]]:
        for each in self.objects:
            if (cluster := cluster_of(each)) is not None:
                yield each["metadata"]["name"], cluster

    def pods(self) -> Iterator[tuple[Object, PodPlace]]:
        for each in self.objects:
            for place in pods_of(each):
                yield each, place


@pytest.fixture(scope="session")
def accepted() -> Callable[[str, Sequence[str]], str]:
    return accepts


@pytest.fixture(scope="session", params=sorted(packaged_sites()))
def manifests(request: pytest.FixtureRequest) -> Manifests:
    """Each packaged site in turn."""
    return Manifests(request.param)


@pytest.fixture(scope="session")
def production() -> Manifests:
    """The packaged site that uses everything."""
    return Manifests("gpu-prod")


@pytest.fixture(scope="session")
def k8s() -> Path:
    """The folder of the committed manifests."""
    return Path(__file__).resolve().parents[2] / "k8s"
