"""The lock file: complete, hash-pinned, free of addresses, and what is installed here."""

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DIRECT = [
    Requirement(text)
    for text in PROJECT["project"]["dependencies"] + PROJECT["dependency-groups"]["dev"]
]


def pinned() -> dict[str, list[tuple[Requirement, list[str]]]]:
    """Map each locked name to its pins (several where markers differ) and their hashes."""
    entries: dict[str, list[tuple[Requirement, list[str]]]] = {}
    for block in re.split(r"\n(?=\S)", LOCK.strip()):
        head, *hashes = [part.strip() for part in block.replace("\\\n", "\n").split("\n")]
        requirement = Requirement(head)
        entries.setdefault(canonicalize_name(requirement.name), []).append((requirement, hashes))
    return entries


PINNED = pinned()


def test_every_requirement_is_pinned_with_hashes():
    assert len(PINNED) > len(DIRECT)
    for name, entries in PINNED.items():
        for requirement, hashes in entries:
            assert [spec.operator for spec in requirement.specifier] == ["=="], name
            assert hashes, name
            assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", line) for line in hashes), name


def test_the_lock_names_no_address_and_no_index():
    assert "://" not in LOCK
    assert not re.search(r"^\s*(-i|-f|--(extra-)?index-url|--find-links)\b", LOCK, re.MULTILINE)
    assert not any(requirement.url for pins in PINNED.values() for requirement, _ in pins)


@pytest.mark.parametrize("requirement", DIRECT, ids=lambda requirement: requirement.name)
def test_a_declared_dependency_is_locked_and_installed_as_locked(requirement):
    versions = {
        next(iter(pin.specifier)).version
        for pin, _ in PINNED[canonicalize_name(requirement.name)]
        if pin.marker is None or pin.marker.evaluate()
    }
    assert len(versions) == 1
    (version,) = versions
    assert requirement.specifier.contains(version)
    assert importlib.metadata.version(requirement.name) == version


def test_what_builds_source_packages_is_locked_too():
    assert "setuptools" in PINNED
    assert all(pin.marker is None for pin, _ in PINNED["setuptools"])
