"""A site as a kustomize tree: what all given sites share is the base, the rest each one's overlay.

The base holds the objects that come out alike for every site; an overlay lists the base and has its
own objects whole. There are no patches, so that each file can be read by itself. Jobs lie beside
the overlay and are created one by one.
"""

from collections.abc import Mapping
from pathlib import Path

from sonoray_jobs.cluster.kubernetes.manifests.naming import Object
from sonoray_jobs.cluster.kubernetes.render_site import PARTS, Rendered
from sonoray_jobs.cluster.kubernetes.yaml_files import to_yaml

_NOTICE = "# Rendered by: sonoray k8s render. Change the site file, not this.\n"


def overlay_files(rendered: Rendered) -> dict[str, str]:
    """The files of one site on its own, by path: what `sonoray k8s render --out` writes."""
    files = {}
    names = []
    for part in PARTS:
        if objects := rendered.parts.get(part):
            names.append(f"{part}.yaml")
            files[names[-1]] = _NOTICE + to_yaml(objects)
    for name, job in rendered.jobs.items():
        files[f"jobs/{name}.yaml"] = _NOTICE + to_yaml([job])
    return {"kustomization.yaml": _kustomization(names), **files}


def tree_files(sites: Mapping[str, Rendered]) -> dict[str, str]:
    """A base and an overlay for each site, by path below `k8s`."""
    shared = _shared([each.parts["platform"] for each in sites.values()])
    files = {
        "base/kustomization.yaml": _kustomization(["platform.yaml"]),
        "base/platform.yaml": _NOTICE + to_yaml(shared),
    }
    for name, rendered in sites.items():
        own = {
            **rendered.parts,
            "platform": [each for each in rendered.parts["platform"] if each not in shared],
        }
        made = overlay_files(Rendered(site=rendered.site, parts=own, jobs=rendered.jobs))
        resources = ["../../base", *(f"{part}.yaml" for part in PARTS if own.get(part))]
        made["kustomization.yaml"] = _kustomization(resources)
        files |= {f"overlays/{name}/{path}": text for path, text in made.items()}
    return files


def write_files(folder: Path, files: Mapping[str, str]) -> list[str]:
    """Write the files whose text differs, and name them."""
    changed = []
    for path, text in files.items():
        place = folder / path
        if place.is_file() and place.read_text(encoding="utf-8") == text:
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")
        changed.append(path)
    return changed


def _shared(platforms: list[list[Object]]) -> list[Object]:
    first, *others = platforms
    return [each for each in first if all(each in other for other in others)]


def _kustomization(resources: list[str]) -> str:
    return _NOTICE + to_yaml(
        [
            {
                "apiVersion": "kustomize.config.k8s.io/v1beta1",
                "kind": "Kustomization",
                "resources": resources,
            }
        ]
    )
