"""From a site to its manifests: the objects of each part, in the order in which they are applied.

Parts: `platform` (namespace, network, storage, MLflow, monitoring), `cluster` (the standing
RayCluster), `service` (the endpoint), `schedule` (steps that run again and again), and `jobs`,
which are not applied with the others: each is started by hand or by `sonoray k8s submit`.
"""

from dataclasses import dataclass, field

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
