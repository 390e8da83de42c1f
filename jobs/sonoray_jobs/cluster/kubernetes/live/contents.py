"""What applied objects say of themselves: their part of the site, image, model and files."""

import tomllib
from collections.abc import Sequence

from sonoray_jobs.cluster.kubernetes.manifests.naming import COMPONENT, Object
from sonoray_jobs.cluster.kubernetes.refusals.walk import cluster_of, entries, inside, pods_of


def part_of(made: Object) -> str:
    """The part of the site that an object belongs to."""
    return str(inside(made, "metadata", "labels").get(COMPONENT, ""))


def image_of(objects: Sequence[Object]) -> str:
    """The image that Ray's Pods among the objects run, the service's first; empty for none."""
    for each in sorted(objects, key=lambda made: made["kind"] != "RayService"):
        for place in pods_of(each) if cluster_of(each) else ():
            for container in entries(place.spec.get("containers")):
                return str(container["image"])
    return ""


def model_of(objects: Sequence[Object]) -> str:
    """The model that the service among the objects serves; empty for none."""
    settings = {each["metadata"]["name"]: inside(each, "data") for each in objects}
    for each in objects:
        if each["kind"] != "RayService":
            continue
        for name in maps_of(each):
            if text := settings.get(name, {}).get("service.toml"):
                return str(tomllib.loads(text)["model"])
    return ""


def maps_of(made: Object) -> set[str]:
    """Names of the ConfigMaps that an object's Pods mount."""
    return {
        str(inside(volume, "configMap")["name"])
        for place in pods_of(made)
        for volume in entries(place.spec.get("volumes"))
        if inside(volume, "configMap").get("name")
    }
