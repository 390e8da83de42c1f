"""The network policies of both packaged sites, as nftables rules on real packets.

Each Pod is a network namespace with nothing in it but listeners on all ports that matter, so that
what is refused is refused by a rule. Labels come from the rendered Pod templates, and those that
KubeRay adds.
"""

import json
import subprocess
import sys
from typing import Any

import pytest
from control_plane import HERE
from real_cluster import NAMESPACES, lacks_tools

from sonoray_jobs.cluster.kubernetes.refusals.walk import pods_of
from sonoray_jobs.cluster.kubernetes.render_site import render
from sonoray_jobs.cluster.kubernetes.site import load_site

GCS, DASHBOARD, SERVE, METRICS, MLFLOW, DNS = 6379, 8265, 8000, 8080, 5000, 53
POSTGRES, OBJECT_STORE, API = 5432, 443, 6443
RANDOM_PORT = 23456
"""Ray's nodes listen anywhere."""
PORTS = [GCS, DASHBOARD, SERVE, METRICS, MLFLOW, DNS, POSTGRES, OBJECT_STORE, API, RANDOM_PORT]
PARTS = ("cluster", "job", "service")
OPERATOR = {"app.kubernetes.io/component": "kuberay-operator"}
INGRESS = {"app.kubernetes.io/name": "ingress-nginx"}


def pod(name: str, namespace: str, labels: dict[str, str]) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"containers": [{"ports": [{"name": "http", "containerPort": MLFLOW}]}]},
    }


def tried(site: str, tries: dict[tuple[str, str, int], bool]) -> dict[tuple[str, str, int], bool]:
    """Which of these connections pass under a site's policies."""
    if reason := lacks_tools():
        pytest.skip(reason)
    rendered = render(*load_site(site))
    own = rendered.site.namespace
    pods = [
        pod("outsider", "other", {}),
        pod("neighbour", own, {}),
        pod("operator", "kuberay-system", OPERATOR),
        pod("disguised", "other", OPERATOR),
        pod("client", "ingress-nginx", INGRESS),
        pod("half-client", "ingress-nginx", {}),
        pod("prometheus", "monitoring", {}),
    ]
    for each in rendered.objects:
        for place in pods_of(each):
            labels = dict(place.labels)
            ray = each["kind"].startswith("Ray") and "sonoray.io/role" not in labels
            kind = "head" if "head" in place.where else "worker"
            part = labels["sonoray.io/part"]
            name = labels.get("sonoray.io/role") or labels.get("app.kubernetes.io/name")
            if ray:
                labels = {**labels, "ray.io/is-ray-node": "yes", "ray.io/node-type": kind}
                if (part, kind) == ("service", "worker"):
                    labels["ray.io/serve"] = "true"
                name = f"{part}-{kind}"
            if name and name not in {made["metadata"]["name"] for made in pods}:
                pods.append(pod(name, own, labels))
    platform = rendered.parts["platform"]
    services = [each for each in platform if each["kind"] == "Service"]
    for number, each in enumerate(services):
        each["spec"]["clusterIP"] = f"10.96.0.{10 + number}"
    slices = [
        {
            "metadata": {
                "namespace": own,
                "labels": {"kubernetes.io/service-name": each["metadata"]["name"]},
            },
            "endpoints": [{"addresses": [each["metadata"]["name"]]}],
            "ports": [{"name": "http", "port": MLFLOW}],
        }
        for each in services
    ]
    namespaces = [
        {"metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}}}
        for name in {each["metadata"]["namespace"] for each in pods}
    ]
    given = {
        "pods": pods,
        "objects": {
            "namespaces": namespaces,
            "networkpolicies": [each for each in platform if each["kind"] == "NetworkPolicy"],
            "services": services,
            "endpointslices": slices,
        },
        "node_addresses": ["192.0.2.1", *(f"192.0.2.{number}" for number in range(16, 21))],
        "ports": PORTS,
        "tries": list(tries),
    }
    script = HERE / "pod_node" / "connections.py"
    done = subprocess.run(
        [*NAMESPACES, sys.executable, str(script)],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(tries, json.loads(done.stdout), strict=True))


def shut(sources: tuple[str, ...]) -> dict[tuple[str, str, int], bool]:
    """Who reaches no port of any Ray node, nor of MLflow."""
    targets = [f"{part}-{kind}" for part in PARTS for kind in ("head", "worker")]
    return {
        (source, target, port): False
        for source in sources
        for target in (*targets, "mlflow")
        for port in (GCS, DASHBOARD, SERVE, METRICS, MLFLOW, RANDOM_PORT)
    }


def within(part: str) -> dict[tuple[str, str, int], bool]:
    """Ray's nodes of one part speak with each other alone, and with MLflow."""
    made = {}
    for source in (f"{part}-head", f"{part}-worker"):
        for other in PARTS:
            for target in (f"{other}-head", f"{other}-worker"):
                for port in (GCS, RANDOM_PORT):
                    made[source, target, port] = other == part
        made |= {
            (source, "mlflow", MLFLOW): True,
            (source, "service-0", MLFLOW): True,
            (source, "mlflow", RANDOM_PORT): False,
            (source, "outsider", SERVE): False,
            (source, "169.254.20.10", DNS): True,
        }
    return made


@pytest.mark.parametrize("site", ["dev-cpu", "gpu-prod"])
def test_an_outsider_reaches_neither_control_store_nor_dashboard_nor_jobs(site: str) -> None:
    wanted = shut(("outsider", "neighbour", "disguised"))
    for part in PARTS:
        wanted |= {
            ("operator", f"{part}-head", DASHBOARD): True,
            ("operator", f"{part}-head", SERVE): part == "service",
            ("operator", f"{part}-head", GCS): False,
            ("submitter", f"{part}-head", DASHBOARD): part != "service",
            ("submitter", f"{part}-head", GCS): False,
        }
    wanted["submitter", "mlflow", MLFLOW] = False
    assert tried(site, wanted) == wanted


@pytest.mark.parametrize("site", ["dev-cpu", "gpu-prod"])
def test_ray_nodes_speak_with_their_own_part_and_with_mlflow(site: str) -> None:
    wanted = {key: holds for part in PARTS for key, holds in within(part).items()}
    assert tried(site, wanted) == wanted


def test_what_lies_around_is_open_to_those_who_need_it_alone() -> None:
    postgres, store, pacs, redis, server = (
        ("192.0.2.17", POSTGRES),
        ("192.0.2.18", OBJECT_STORE),
        ("192.0.2.19", OBJECT_STORE),
        ("192.0.2.16", GCS),
        ("192.0.2.1", API),
    )
    wanted = {
        ("mlflow", *postgres): True,
        ("mlflow-migrate", *postgres): True,
        ("mlflow-migrate", "mlflow", MLFLOW): True,
        ("mlflow", *store): True,
        ("job-worker", *store): True,
        ("job-worker", *pacs): True,
        ("job-worker", *postgres): False,
        ("job-worker", "192.0.2.20", OBJECT_STORE): False,
        ("job-head", *server): False,
        ("cluster-head", *server): True,
        ("cluster-worker", *server): False,
        ("service-head", *server): True,
        ("service-head", *redis): True,
        ("service-worker", *store): False,
        ("service-worker", *pacs): False,
        ("service-worker", *postgres): False,
        ("client", "service-worker", SERVE): True,
        ("client", "service-worker", DASHBOARD): False,
        ("client", "service-head", SERVE): False,
        ("client", "job-head", DASHBOARD): False,
        ("half-client", "service-worker", SERVE): False,
        ("prometheus", "service-worker", METRICS): True,
        ("prometheus", "service-worker", SERVE): False,
        ("prometheus", "mlflow", MLFLOW): True,
    }
    assert tried("gpu-prod", wanted) == wanted
