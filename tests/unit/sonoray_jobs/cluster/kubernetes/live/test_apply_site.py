"""What an apply keeps of a running cluster, and how a difference reads."""

from dataclasses import replace

from sonoray_jobs.cluster.kubernetes.live.apply_site import (
    Difference,
    stale_objects,
    with_live_replicas,
)
from sonoray_jobs.cluster.kubernetes.render_site import render
from sonoray_jobs.cluster.kubernetes.site import load_site
from sonoray_jobs.cluster.kubernetes.site_endpoints import Client
from sonoray_jobs.cluster.kubernetes.yaml_files import name_of


def live(replicas: int) -> dict:
    groups = [{"groupName": name, "replicas": replicas} for name in ("data", "embed", "train")]
    return {"spec": {"workerGroupSpecs": groups}}


def test_workers_that_the_autoscaler_asked_for_are_left():
    [cluster] = render(*load_site("gpu-prod")).parts["cluster"]
    applied = with_live_replicas(cluster, live(3))
    assert [group["replicas"] for group in applied["spec"]["workerGroupSpecs"]] == [3, 3, 3]
    above = with_live_replicas(cluster, live(99))
    assert [group["replicas"] for group in above["spec"]["workerGroupSpecs"]] == [8, 4, 4]
    assert [group["replicas"] for group in cluster["spec"]["workerGroupSpecs"]] == [0, 0, 0]
    assert with_live_replicas(cluster, None) is cluster


def test_a_fixed_cluster_is_applied_as_it_is_written():
    [service] = [
        each
        for each in render(*load_site("dev-cpu")).parts["service"]
        if each["kind"] == "RayService"
    ]
    assert with_live_replicas(service, live(3)) is service


def test_a_difference_names_object_field_old_and_new():
    made = Difference(
        created=("ConfigMap/a",), changed={"RayCluster/sonoray": {"spec.rayVersion": ("1", "2")}}
    )
    gone = replace(made, deleted=("Ingress/b",))
    assert gone.lines() == [*made.lines(), "- Ingress/b"]
    assert made.lines() == [
        "+ ConfigMap/a",
        "~ RayCluster/sonoray",
        '    spec.rayVersion: "1" -> "2"',
    ]
    assert Difference().lines() == ["nothing would change"]


def test_a_way_into_the_network_that_the_site_closes_is_closed():
    site, road = load_site("dev-cpu")
    client = Client(namespace={"name": "reporting"}, pods={"app": "client"})
    network = site.network.model_copy(update={"clients": (client,)})
    before, now = render(site.model_copy(update={"network": network}), road), render(site, road)
    old = [*before.parts["platform"], *before.parts["cluster"]]
    stale = stale_objects(old, now.parts["platform"], {"platform"})
    assert [name_of(each) for each in stale] == ["NetworkPolicy/service-clients"]
    assert stale_objects(old, now.parts["cluster"], {"cluster"}) == []
    # what holds data, and files that something still reads, stay
    assert {each["kind"] for each in stale_objects(old, [], {"platform", "cluster"})} == {
        "NetworkPolicy"
    }
