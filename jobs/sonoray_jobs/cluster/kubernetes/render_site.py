"""From a site to its manifests: the objects of each part, in the order in which they are applied.

Parts: `platform` (namespace, network, storage, MLflow, monitoring), `cluster` (the standing
RayCluster), `service` (the endpoint), `schedule` (steps that run again and again), and `jobs`,
which are not applied with the others: each is started by hand or by `sonoray k8s submit`.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sonoray.errors import ConfigError
from sonoray_jobs.cluster.kubernetes.manifests import (
    mlflow_server,
    monitoring,
    network,
    ray_clusters,
    ray_jobs,
    ray_services,
    tenant,
)
from sonoray_jobs.cluster.kubernetes.manifests.naming import Object, config_map
from sonoray_jobs.cluster.kubernetes.site import Site

PARTS = ("platform", "cluster", "service", "schedule")
"""What `sonoray k8s apply` knows, in its order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """All objects of a site."""

    site: Site
    parts: dict[str, list[Object]]
    """By part, in the order in which they are applied."""
    jobs: dict[str, Object] = field(default_factory=dict)
    """RayJobs by step."""

    @property
    def objects(self) -> list[Object]:
        """All objects, jobs last."""
        standing = [each for part in PARTS for each in self.parts.get(part, [])]
        return [*standing, *self.jobs.values()]


def render(site: Site, road: str) -> Rendered:
    """Make all objects of a site.

    Args:
        site: the site.
        road: text of the road file.
    """
    road_map = config_map(site, "sonoray-road", "platform", "road.toml", road)
    road_name = road_map["metadata"]["name"]
    parts: dict[str, list[Object]] = {
        "platform": [
            tenant.namespace(site),
            *tenant.service_accounts(site),
            *tenant.priority_classes(site),
            tenant.quota(site),
            tenant.limit_range(site),
            *network.network_policies(site),
            tenant.workspace(site),
            road_map,
            *mlflow_server.mlflow_objects(site),
            *(monitoring.monitors(site) if site.monitoring.enabled else []),
        ]
    }
    if site.cluster.enabled:
        parts["cluster"] = [ray_clusters.standing_cluster(site, road_name)]
    if site.service.enabled:
        settings = ray_services.service_settings(site)
        parts["service"] = [
            settings,
            ray_services.disruption_budget(site),
            ray_services.ray_service(site, settings["metadata"]["name"]),
            *([ray_services.ingress(site)] if site.service.host else []),
        ]
    if site.schedule.cron:
        parts["schedule"] = [ray_jobs.scheduled_steps(site)]
    jobs: dict[str, Object] = {
        str(name): ray_jobs.ray_job(site, name, road_name) for name in site.jobs
    }
    return Rendered(site=site, parts=parts, jobs=jobs)


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
