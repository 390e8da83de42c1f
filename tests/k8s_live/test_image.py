"""The image, built from its Dockerfile by buildah, on a Debian that debootstrap unpacked.

No registry of images is asked: Debian's own Python takes the place of the base. `make test-image`
turns it on; it has to be root, fetches about 5 GB and needs 45 GB of disk.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parents[2]
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
BASE, IMAGE = "localhost/debian-python:3.11", "localhost/sonoray:test"
USER = "1000:1000"
PACKAGES = "deepspeed, mlflow, open_clip, peft, ray, segment_anything, sonoray, torch, transformers"


@dataclass
class Buildah:
    """buildah with a storage of its own."""

    folder: Path

    def __call__(self, *words: str) -> str:
        """Run it, which must succeed; what it printed."""
        storage = ["--root", str(self.folder / "store"), "--runroot", str(self.folder / "run")]
        done = subprocess.run(
            ["buildah", *storage, *words], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"buildah {' '.join(words)}\n{done.stderr[-4000:]}"
        return done.stdout.strip()

    def run(self, container: str, *words: str) -> str:
        """Run a command as a Pod would, but for the read-only root."""
        options = ["--isolation", "chroot", "--user", USER, "--workingdir", "/home/sonoray"]
        return self("run", *options, container, "--", *words)


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    if not os.environ.get("SONORAY_TEST_IMAGE"):
        pytest.skip("an image takes long; run: make test-image")
    absent = [tool for tool in ("buildah", "debootstrap") if shutil.which(tool) is None]
    if absent or os.geteuid() != 0:
        pytest.skip(f"needs root and on Debian: apt-get install {' '.join(absent) or 'buildah'}")
    folder = tmp_path_factory.mktemp("image")
    made = Buildah(folder)
    yield made
    made("rm", "--all")
    made("rmi", "--all", "--force")
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def image(buildah: Buildah) -> str:
    """The image; its build is the first test of it."""
    debian = buildah.folder / "debian"
    subprocess.run(
        ["debootstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", str(debian)],
        check=True,
        capture_output=True,
    )
    base = buildah("from", "scratch")
    buildah("add", base, str(debian), "/")
    steps = (
        "apt-get update",
        "apt-get install --yes --no-install-recommends python3.11-dev python3.11-venv",
        "ln -s /usr/bin/python3.11 /usr/local/bin/python",
    )
    buildah("run", "--isolation", "chroot", base, "--", "/bin/sh", "-c", " && ".join(steps))
    buildah("commit", "--rm", base, BASE)
    shutil.rmtree(debian)
    secret = ["--secret", f"id=ca,src={AUTHORITIES}"] if AUTHORITIES.exists() else []
    buildah(
        *("bud", "--isolation", "chroot", "--network", "host", "--build-arg", f"PYTHON={BASE}"),
        *(*secret, "-f", str(REPOSITORY / "k8s" / "Dockerfile"), "-t", IMAGE, str(REPOSITORY)),
    )
    return IMAGE


@pytest.fixture(scope="module")
def container(buildah: Buildah, image: str) -> str:
    return buildah("from", "--pull-never", image)


def test_labels_and_user_are_those_of_the_manifests(buildah: Buildah, image: str) -> None:
    config: dict[str, Any] = json.loads(buildah("inspect", "--type", "image", image))["OCIv1"]
    lock = (REPOSITORY / "requirements.lock").read_text(encoding="utf-8")
    [ray] = re.findall(r"^ray(?:\[[^]]*\])?==(\S+)", lock, re.MULTILINE)
    assert config["config"]["Labels"]["org.sonoray.ray"] == ray
    assert config["config"]["User"] == USER


def locked_versions() -> dict[str, str]:
    """What the lock installs on this Python, which is the image's."""
    lock = (REPOSITORY / "requirements.lock").read_text(encoding="utf-8")
    lines = re.findall(r"^(\S+==[^\\\n]+)", lock, re.MULTILINE)
    wanted = [Requirement(line) for line in lines]
    return {
        each.name: str(each.specifier).removeprefix("==")
        for each in wanted
        if each.marker is None or each.marker.evaluate()
    }


def test_it_holds_the_lock_and_nothing_else(buildah: Buildah, container: str) -> None:
    told = buildah.run(container, "uv", "pip", "freeze")
    there = dict(re.findall(r"^([\w.-]+)==(\S+)$", told, re.MULTILINE))
    assert there == locked_versions()
    assert re.findall(r"^([\w.-]+) @", told, re.MULTILINE) == ["sonoray"]
    buildah.run(container, "uv", "pip", "check")


@pytest.mark.timeout(900)
def test_all_that_runs_in_it_is_imported_and_answers(buildah: Buildah, container: str) -> None:
    buildah.run(container, "python", "-c", f"import {PACKAGES}")
    assert "ultrasound" in buildah.run(container, "sonoray", "--help").lower()
    for step in ("ingest", "bootstrap", "embed", "train", "evaluate", "export", "recognize"):
        assert buildah.run(container, "sonoray", step, "--help")
    found = buildah.run(container, "/bin/sh", "-c", "command -v ray")
    assert found == "/opt/sonoray-lean/ray"
    for tool in ("ray --version", "mlflow --version", "wget --version", "g++ --version"):
        assert buildah.run(container, *tool.split())


def test_the_compiled_operation_is_there(buildah: Buildah, container: str) -> None:
    """Were it compiled anew, the compiler that is taken away would be missing."""
    line = "PATH=/opt/sonoray/bin CXX=/nowhere python -m sonoray_jobs.training.deepspeed_ops"
    listed = buildah.run(
        container, "/bin/sh", "-c", f"{line} && /bin/ls /tmp/torch_extensions/*/*.so"
    )
    assert re.findall(r"/([\w-]+)\.so$", listed, re.MULTILINE) == ["deepspeed_shm_comm"]
