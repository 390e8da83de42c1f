"""Revisions: what was applied when, kept on the cluster, so that there is a way back.

Each is an immutable ConfigMap with all objects of the site, those of parts that were not applied
this time taken from the one before; ten of them stay.
"""

import base64
import gzip
import json
import time
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sonoray_jobs.cluster.kubernetes.live.api_server import CONFIG_MAP, Api
from sonoray_jobs.cluster.kubernetes.manifests.naming import Object, metadata
from sonoray_jobs.cluster.kubernetes.refusals.walk import inside
from sonoray_jobs.cluster.kubernetes.site import Site
from sonoray_jobs.cluster.kubernetes.yaml_files import name_of

KEPT_REVISIONS = 10
REVISION_LABEL = "sonoray.io/revision"


@dataclass(frozen=True, kw_only=True, slots=True)
class Revision:
    """What one apply left."""

    number: int
    applied: str
    """When: UTC, ISO 8601."""
    image: str
    model: str
    """Of the service; empty where it had none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """The revisions of a site, oldest first; the last one is in force."""

    namespace: str
    revisions: tuple[Revision, ...]

    def lines(self) -> list[str]:
        """For a person."""
        if not self.revisions:
            return [f"namespace {self.namespace} has no revision; see: sonoray k8s apply"]
        rows = [
            (str(each.number), each.applied, each.image, each.model or "no service")
            for each in self.revisions
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        return [*lines[:-1], f"{lines[-1]}  (in force)"]

    def to_json(self) -> dict[str, Any]:
        """For a script."""
        return asdict(self)


def history(api: Api, site: Site) -> History:
    """Read what was applied when."""
    found = []
    for number, each in revisions(api, site):
        notes = inside(each, "metadata", "annotations")
        found.append(
            Revision(
                number=number,
                applied=str(notes.get("sonoray.io/applied", "")),
                image=str(notes.get("sonoray.io/image", "")),
                model=_model_of(objects_of(each)),
            )
        )
    return History(namespace=site.namespace, revisions=tuple(found))


def latest_revision(api: Api, site: Site) -> int:
    """The number of the newest revision, 0 where there is none."""
    return max((number for number, _ in revisions(api, site)), default=0)


def revisions(api: Api, site: Site) -> list[tuple[int, Object]]:
    """All revisions, oldest first, with their ConfigMaps."""
    maps = api.items(CONFIG_MAP, site.namespace, labelSelector=REVISION_LABEL)
    found = [(int(each["metadata"]["labels"][REVISION_LABEL]), each) for each in maps]
    return sorted(found, key=lambda pair: pair[0])


def objects_of(revision: Object) -> list[Object]:
    """What was applied with a revision."""
    packed = base64.b64decode(revision["binaryData"]["objects"])
    found: list[Object] = json.loads(gzip.decompress(packed))
    return found


def _image_of(objects: Sequence[Object]) -> str:
    """The image that Ray's Pods among the objects run; of a rollback not that of the site file."""
    for each in objects:
        spec = inside(each, "spec")
        cluster = inside(spec, "rayClusterConfig") or spec
        head = inside(cluster, "headGroupSpec", "template", "spec")
        for container in head.get("containers") or ():
            return str(container["image"])
    return ""


def _model_of(objects: Sequence[Object]) -> str:
    """The model that the service among the objects serves."""
    for each in objects:
        if settings := inside(each, "data").get("service.toml"):
            return str(tomllib.loads(settings)["model"])
    return ""


def keep_revision(api: Api, site: Site, objects: Sequence[Object]) -> int:
    """Keep what is applied now, with what earlier revisions applied of other parts."""
    there = revisions(api, site)
    number = (there[-1][0] if there else 0) + 1
    new = {name_of(each) for each in objects}
    old = [each for each in objects_of(there[-1][1]) if name_of(each) not in new] if there else []
    packed = gzip.compress(json.dumps([*old, *objects]).encode(), mtime=0)
    made = metadata(site, f"sonoray-revision-{number:06d}", "revision")
    made["labels"][REVISION_LABEL] = str(number)
    made["annotations"] = {
        "sonoray.io/image": _image_of(objects) or site.image_name,
        "sonoray.io/applied": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    api.apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": made,
            "immutable": True,
            "binaryData": {"objects": base64.b64encode(packed).decode()},
        }
    )
    for _, stale in there[: max(0, len(there) + 1 - KEPT_REVISIONS)]:
        api.delete(CONFIG_MAP, site.namespace, stale["metadata"]["name"])
    return number
