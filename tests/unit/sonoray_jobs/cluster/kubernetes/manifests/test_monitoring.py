"""Every query names metrics that somebody exports."""

import json
import re
from pathlib import Path

import ray

from sonoray_jobs.cluster.kubernetes.manifests.monitoring import (
    METRICS,
    PANELS,
    alert_rules,
    monitors,
)
from sonoray_jobs.cluster.kubernetes.site import load_site
from sonoray_serve.schedule.meters import _COUNTERS, _GAUGES, MODEL_METRIC, metric_name

NAME = re.compile(r"\bray_[a-z0-9_]+")


def queries() -> list[str]:
    site, _ = load_site("gpu-prod")
    return [rule["expr"] for rule in alert_rules(site)] + [query for _, _, query in PANELS]


def test_queries_name_known_metrics_and_every_known_one_is_used():
    named = {name for query in queries() for name in NAME.findall(query)}
    assert named == set(METRICS)


def test_every_metric_is_exported_by_us_or_by_ray():
    ours = {f"ray_{metric_name(field)}" for field in _GAUGES}
    ours |= {f"ray_{metric_name(field)}_total" for field in _COUNTERS}
    ours.add(f"ray_{MODEL_METRIC}")
    root = Path(ray.__file__).parent
    sources = [
        root / "serve" / "_private" / "proxy.py",
        root / "serve" / "_private" / "router.py",
        root / "serve" / "_private" / "replica.py",
        root / "serve" / "_private" / "http_util.py",
        root / "serve" / "_private" / "deployment_state.py",
        root / "serve" / "_private" / "metrics_utils.py",
        root / "serve" / "_private" / "constants.py",
        root / "dashboard" / "modules" / "reporter" / "reporter_agent.py",
        *(root / "dashboard" / "modules" / "metrics" / "dashboards").glob("*_panels.py"),
    ]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources if path.exists())
    for name in set(METRICS) - ours:
        plain = re.sub(r"_(total|bucket)$", "", name.removeprefix("ray_"))
        assert plain in text or name in text, name


def test_the_dashboard_has_a_panel_for_each_query():
    site, _ = load_site("gpu-prod")
    [board] = [each for each in monitors(site) if each["kind"] == "ConfigMap"]
    panels = json.loads(board["data"]["sonoray.json"])["panels"]
    assert [panel["targets"][0]["expr"] for panel in panels] == [query for _, _, query in PANELS]
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)


def test_every_alert_says_what_to_do():
    site, _ = load_site("gpu-prod")
    for rule in alert_rules(site):
        assert rule["annotations"]["summary"].endswith((".", "sonoray k8s status"))
        assert rule["labels"]["severity"] in ("warning", "critical")
