"""Revisions: what was applied when, kept on the cluster, so that there is a way back.

Each is an immutable ConfigMap with all objects of the site, those of parts that were not applied
this time taken from the one before; ten of them stay. An object's part is in its labels.
"""

import base64
import gzip
import json
import time
from collections.abc import Sequence, Set
from dataclasses import asdict, dataclass
from typing import Any

from sonoray_jobs.cluster.kubernetes.live.api_server import CONFIG_MAP, Api
from sonoray_jobs.cluster.kubernetes.live.contents import image_of, maps_of, model_of, part_of
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
    """Of Ray's Pods, the service's first; empty where it had none."""
    model: str
    """Of the service; empty where it had none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """The revisions of a site, oldest first."""

    namespace: str
    revisions: tuple[Revision, ...]

    def lines(self) -> list[str]:
        """For a person."""
        if not self.revisions:
            return [f"namespace {self.namespace} has no revision; see: sonoray k8s apply"]
        rows = [
            (str(each.number), each.applied, each.image or "no Ray", each.model or "no service")
            for each in self.revisions
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]

    def to_json(self) -> dict[str, Any]:
        """For a script."""
        return asdict(self)


def history(api: Api, site: Site) -> History:
    """Read what was applied when."""
    found = []
    for number, each in revisions(api, site):
        objects = objects_of(each)
        found.append(
            Revision(
                number=number,
                applied=str(inside(each, "metadata", "annotations").get("sonoray.io/applied", "")),
                image=image_of(objects),
                model=model_of(objects),
            )
        )
    return History(namespace=site.namespace, revisions=tuple(found))


def latest_revision(api: Api, site: Site) -> tuple[int, list[Object]]:
    """The number of the newest revision and its objects; 0 and none where there is none."""
    found = revisions(api, site)
    return (found[-1][0], objects_of(found[-1][1])) if found else (0, [])


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


def carried_over(old: Sequence[Object], new: Sequence[Object], parts: Set[str]) -> list[Object]:
    """What stays as it was: objects of other parts, and the ConfigMaps that those mount.

    Args:
        old: of the revision before.
        new: what is applied now.
        parts: the parts that `new` is the whole of.
    """
    names = {name_of(each) for each in new}
    rest = [each for each in old if name_of(each) not in names]
    stay = [each for each in rest if part_of(each) not in parts]
    mounted = {name for each in stay for name in maps_of(each)}
    return [
        each
        for each in rest
        if part_of(each) not in parts
        or (each["kind"] == "ConfigMap" and each["metadata"]["name"] in mounted)
    ]


def keep_revision(api: Api, site: Site, objects: Sequence[Object], parts: Set[str]) -> int:
    """Keep what is applied now, with what earlier revisions applied of other parts.

    Args:
        api: the cluster.
        site: whose.
        objects: what was applied; none where parts were deleted.
        parts: the parts that `objects` is the whole of.

    Returns:
        The revision's number.
    """
    there = revisions(api, site)
    number = (there[-1][0] if there else 0) + 1
    old = carried_over(objects_of(there[-1][1]), objects, parts) if there else []
    packed = gzip.compress(json.dumps([*old, *objects]).encode(), mtime=0)
    made = metadata(site, f"sonoray-revision-{number:06d}", "revision")
    made["labels"][REVISION_LABEL] = str(number)
    made["annotations"] = {"sonoray.io/applied": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
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
