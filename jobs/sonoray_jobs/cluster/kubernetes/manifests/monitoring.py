"""What Prometheus reads, when it warns, and what Grafana shows.

Each query names metrics that Ray, Ray Serve or this project export (`METRICS`); a test holds every
query against that list, and the list against what a running service exports.
"""

import json
from typing import Any

from sonoray_jobs.cluster.kubernetes.manifests.naming import MLFLOW, Object, metadata
from sonoray_jobs.cluster.kubernetes.site import Site

METRICS = (
    "ray_node_cpu_utilization",
    "ray_node_disk_utilization_percentage",
    "ray_node_gpus_available",
    "ray_node_gpus_utilization",
    "ray_node_mem_total",
    "ray_node_mem_used",
    "ray_serve_deployment_queued_queries",
    "ray_serve_deployment_replica_healthy",
    "ray_serve_http_request_latency_ms_bucket",
    "ray_serve_num_http_error_requests_total",
    "ray_serve_num_http_requests_total",
    "ray_sonoray_engine_active",
    "ray_sonoray_engine_answer_tokens_total",
    "ray_sonoray_engine_cancelled_total",
    "ray_sonoray_engine_ended_total",
    "ray_sonoray_engine_shared_tokens_total",
    "ray_sonoray_engine_waiting",
    "ray_sonoray_served_model",
)
"""All metrics that the queries below may name."""

_REQUESTS = 'sum(rate(ray_serve_num_http_requests_total{application="sonoray"}[5m]))'
_ERRORS = (
    "sum(rate(ray_serve_num_http_error_requests_total"
    '{application="sonoray",error_code=~"5.."}[5m]))'
)
_P99_MS = (
    "histogram_quantile(0.99, sum(rate(ray_serve_http_request_latency_ms_bucket"
    '{application="sonoray"}[5m])) by (le))'
)


def alert_rules(site: Site) -> list[Object]:
    """When somebody has to look; each with what to do."""
    return [
        _alert(
            "SonoRayErrorBudget",
            f"{_ERRORS} / {_REQUESTS} > 0.01",
            "5m",
            "critical",
            "More than 1 % of the requests fail; see the log of the ingress replicas.",
        ),
        _alert(
            "SonoRaySlow",
            f"{_P99_MS} > {site.monitoring.p99_s * 1000:g}",
            "10m",
            "warning",
            "One request in a hundred is too slow; look at the queue, and raise service.replicas.",
        ),
        _alert(
            "SonoRayReplicaUnhealthy",
            'min(ray_serve_deployment_replica_healthy{application="sonoray"}) < 1',
            "5m",
            "critical",
            "A replica fails its health check; see: sonoray k8s status",
        ),
        _alert(
            "SonoRayModelsDiffer",
            "count(count(ray_sonoray_served_model == 1) by (digest)) > 1",
            "15m",
            "critical",
            "Replicas serve different models for longer than an upgrade takes.",
        ),
        _alert(
            "SonoRayGpuIdle",
            "sum(ray_sonoray_engine_waiting) > 0 and avg(ray_node_gpus_utilization) < 5",
            "10m",
            "warning",
            "Requests wait while the GPUs are idle; see the log of the engine replicas.",
        ),
        _alert(
            "SonoRayDisk",
            "max(ray_node_disk_utilization_percentage) by (instance) > 85",
            "10m",
            "warning",
            "The local disk of a Ray Pod fills; raise groups.NAME.scratch.",
        ),
    ]


PANELS = (
    ("Requests a second", "reqps", _REQUESTS),
    ("Failed requests a second", "reqps", _ERRORS),
    ("Latency, 99 of 100 (ms)", "ms", _P99_MS),
    ("Answers in work", "short", "sum(ray_sonoray_engine_active)"),
    ("Requests that wait", "short", "sum(ray_sonoray_engine_waiting)"),
    (
        "Queue by deployment",
        "short",
        "sum(ray_serve_deployment_queued_queries) by (deployment)",
    ),
    ("Answer tokens a second", "short", "sum(rate(ray_sonoray_engine_answer_tokens_total[5m]))"),
    (
        "Prompt tokens that needed no reading, a second",
        "short",
        "sum(rate(ray_sonoray_engine_shared_tokens_total[5m]))",
    ),
    (
        "Clients that left, a second",
        "short",
        "sum(rate(ray_sonoray_engine_cancelled_total[5m]))",
    ),
    ("Answers a second", "short", "sum(rate(ray_sonoray_engine_ended_total[5m]))"),
    ("Models served", "short", "count(ray_sonoray_served_model == 1) by (digest)"),
    ("GPU use (%)", "percent", "avg(ray_node_gpus_utilization) by (instance)"),
    ("GPUs", "short", "sum(ray_node_gpus_available)"),
    ("CPU use (%)", "percent", "avg(ray_node_cpu_utilization) by (instance)"),
    ("Memory use (%)", "percent", "100 * sum(ray_node_mem_used) / sum(ray_node_mem_total)"),
    ("Disk use (%)", "percent", "max(ray_node_disk_utilization_percentage) by (instance)"),
)
"""Title, unit and query of each panel of the dashboard."""


def monitors(site: Site) -> list[Object]:
    """PodMonitor of Ray, ServiceMonitor of MLflow, alert rules and the dashboard."""
    return [
        _monitoring(
            site,
            "PodMonitor",
            "sonoray-ray",
            {
                "selector": {"matchLabels": {"ray.io/is-ray-node": "yes"}},
                "podMetricsEndpoints": [{"port": "metrics", "interval": "15s"}],
                "podTargetLabels": ["ray.io/cluster", "ray.io/group", "sonoray.io/part"],
            },
        ),
        *([_mlflow(site)] if not site.mlflow.accounts_secret else []),
        _monitoring(
            site,
            "PrometheusRule",
            "sonoray",
            {"groups": [{"name": "sonoray", "rules": alert_rules(site)}]},
        ),
        _dashboard(site),
    ]


def _mlflow(site: Site) -> Object:
    return _monitoring(
        site,
        "ServiceMonitor",
        MLFLOW,
        {
            "selector": {"matchLabels": {"app.kubernetes.io/name": MLFLOW}},
            "endpoints": [{"port": "http", "path": "/metrics", "interval": "30s"}],
        },
    )


def _monitoring(site: Site, kind: str, name: str, spec: dict[str, Any]) -> Object:
    made = metadata(site, name, "platform")
    made["labels"] |= site.monitoring.labels
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": kind,
        "metadata": made,
        "spec": spec,
    }


def _alert(name: str, query: str, lasts: str, severity: str, text: str) -> Object:
    return {
        "alert": name,
        "expr": query,
        "for": lasts,
        "labels": {"severity": severity},
        "annotations": {"summary": text},
    }


def _dashboard(site: Site) -> Object:
    """A ConfigMap that Grafana's sidecar loads by its label."""
    panels = [
        {
            "id": number + 1,
            "type": "timeseries",
            "title": title,
            "gridPos": {"x": 8 * (number % 3), "y": 8 * (number // 3), "w": 8, "h": 8},
            "datasource": {"type": "prometheus", "uid": "${datasource}"},
            "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
            "targets": [{"refId": "A", "expr": query}],
        }
        for number, (title, unit, query) in enumerate(PANELS)
    ]
    board = {
        "title": "SonoRay",
        "uid": "sonoray",
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {
            "list": [{"name": "datasource", "type": "datasource", "query": "prometheus"}]
        },
        "panels": panels,
    }
    made = metadata(site, "sonoray-dashboard", "platform")
    made["labels"]["grafana_dashboard"] = "1"
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": made,
        "data": {"sonoray.json": json.dumps(board, indent=1) + "\n"},
    }
