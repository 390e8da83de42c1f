"""Kubernetes objects as YAML: written, read, named in messages."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from sonoray.errors import ConfigError
from sonoray_jobs.cluster.kubernetes.manifests.naming import Object

_FIRST = (
    "Namespace",
    "PriorityClass",
    "ServiceAccount",
    "ResourceQuota",
    "LimitRange",
    "NetworkPolicy",
    "PersistentVolumeClaim",
    "Secret",
    "ConfigMap",
)
"""What others need, in this order; the rest follows as it is written."""
_WITHOUT_NAMESPACE = ("Namespace", "PriorityClass")


logger = logging.getLogger(__name__)


class _Plain(yaml.SafeDumper):
    """YAML without anchors, with texts of several lines as they are read."""

    def ignore_aliases(self, _data: Any) -> bool:  # noqa: ANN401 - any YAML value
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Plain.add_representer(str, _text)


def to_yaml(objects: list[Object]) -> str:
    """Write objects as one stream of YAML documents."""
    return yaml.dump_all(
        objects, Dumper=_Plain, sort_keys=False, allow_unicode=True, width=100, indent=2
    )


def name_of(made: Object) -> str:
    """How a message names an object: kind/name."""
    return f"{made.get('kind', '?')}/{made.get('metadata', {}).get('name', '?')}"


def namespace_of(made: Object) -> str:
    """The namespace of an object; empty for one of the whole cluster."""
    return str(made.get("metadata", {}).get("namespace", ""))


def read_manifests(path: Path) -> list[Object]:
    """Read the objects of a YAML file, or of all YAML files below a folder.

    Raises:
        ConfigError: there is nothing, or it is no YAML.
    """
    files = sorted(path.rglob("*.y*ml")) if path.is_dir() else [path]
    objects: list[Object] = []
    for file in files:
        try:
            documents = list(yaml.safe_load_all(file.read_text(encoding="utf-8")))
        except OSError as error:
            raise ConfigError(f"{file} cannot be read ({error.strerror}); name a file") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file} is no YAML: {' '.join(str(error).split())}") from None
        for document in filter(None, documents):
            if not isinstance(document, dict):
                raise ConfigError(f"{file} holds {document!r}, which is no object; remove it")
            items = document["items"] if document.get("kind") == "List" else [document]
            objects += [each for each in items if each.get("kind") != "Kustomization"]
    if not objects:
        raise ConfigError(f"{path} holds no Kubernetes object; name a folder of YAML files")
    return objects


def in_order(objects: Sequence[Object], namespace: str) -> list[Object]:
    """Objects of somebody's files as they are applied: what others need first, in one namespace.

    RayJobs are left out, with a warning: each of them would start at once.

    Args:
        objects: as they were read.
        namespace: of the site; given to objects that name none.

    Raises:
        ConfigError: an object names another namespace.
    """
    jobs = [each for each in objects if each.get("kind") == "RayJob"]
    if jobs:
        logger.warning(
            "%d RayJobs are left out, such as %s; start a step with: sonoray k8s submit STEP",
            len(jobs),
            name_of(jobs[0]),
        )
    ordered = []
    for each in objects:
        if each.get("kind") == "RayJob":
            continue
        there = namespace_of(each)
        if there not in ("", namespace):
            raise ConfigError(
                f"{name_of(each)} is of namespace {there!r} and the site's is {namespace!r}; "
                "change one of them"
            )
        if each.get("kind") not in _WITHOUT_NAMESPACE:
            each = {**each, "metadata": {**each.get("metadata", {}), "namespace": namespace}}
        ordered.append(each)
    rank = {kind: number for number, kind in enumerate(_FIRST)}
    return sorted(ordered, key=lambda each: rank.get(str(each.get("kind")), len(rank)))
