"""The committed manifests are what the sites render to, and what kustomize makes of them."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from sonoray_jobs.cluster.kubernetes.kustomize import tree_files, write_files
from sonoray_jobs.cluster.kubernetes.refusals.problems import find_problems
from sonoray_jobs.cluster.kubernetes.render_site import render
from sonoray_jobs.cluster.kubernetes.site import load_site, packaged_sites
from sonoray_jobs.cluster.kubernetes.yaml_files import to_yaml

ROOT = Path(__file__).resolve().parents[2]


def test_committed_manifests_are_the_rendered_ones(k8s: Path) -> None:
    """SONORAY_WRITE_MANIFESTS=1 writes them anew."""
    rendered = {name: render(*load_site(name)) for name in packaged_sites()}
    files = tree_files(rendered)
    if os.environ.get("SONORAY_WRITE_MANIFESTS"):
        for folder in ("base", "overlays"):
            shutil.rmtree(k8s / folder, ignore_errors=True)
        write_files(k8s, files)
    there = {
        str(path.relative_to(k8s)): path.read_text(encoding="utf-8")
        for folder in ("base", "overlays")
        for path in (k8s / folder).rglob("*")
        if path.is_file()
    }
    assert sorted(there) == sorted(files)
    assert [path for path in files if there[path] != files[path]] == []


def test_kustomize_gives_every_standing_object_once(manifests: Any, k8s: Path) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed; only our own rendering is tested")
    command = [kubectl, "kustomize", str(k8s / "overlays" / manifests.name)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    made = {
        (each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(done.stdout)
    }
    standing = [each for part in manifests.rendered.parts.values() for each in part]
    assert len(made) == len(standing)
    for each in standing:
        assert made[each["kind"], each["metadata"]["name"]] == each


def test_yaml_is_read_back_as_it_was(manifests: Any) -> None:
    assert list(yaml.safe_load_all(to_yaml(manifests.objects))) == manifests.objects


def test_packaged_sites_pass_their_own_checks(manifests: Any, accepted: Any) -> None:
    assert find_problems(manifests.objects, accepted) == []


def test_ray_version_lock_image_and_dockerfile_are_one(manifests: Any, k8s: Path) -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    [ray] = re.findall(r"^ray==([\w.]+)", lock, flags=re.MULTILINE)
    images = {
        container["image"]
        for _, place in manifests.pods()
        for container in [*place.spec["containers"], *place.spec.get("initContainers", [])]
    }
    assert {spec["rayVersion"] for _, spec in manifests.clusters()} == {ray}
    [image] = images
    assert image.endswith(f"-ray{ray}")
    text = (k8s / "Dockerfile").read_text(encoding="utf-8")
    assert set(re.findall(r"sonoray:[\w.-]+", text)) == {image}


def test_the_image_is_given_what_its_dockerfile_copies(k8s: Path) -> None:
    """The rest of a checkout, such as a workspace with data, stays outside."""
    text = (k8s / "Dockerfile").read_text(encoding="utf-8")
    copied = {
        source
        for words in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE)
        for source in words.split()[:-1]
    }
    ignored = (k8s / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignored
    assert copied == {line[1:] for line in ignored if line.startswith("!")}
    assert [path for path in copied if not (k8s.parent / path).exists()] == []
