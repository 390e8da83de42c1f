"""What an apply keeps of a running cluster, and how a difference reads."""

from sonoray_jobs.cluster.kubernetes.live.apply_site import Difference, with_live_replicas
from sonoray_jobs.cluster.kubernetes.render_site import render
from sonoray_jobs.cluster.kubernetes.site import load_site


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
    assert made.lines() == [
        "+ ConfigMap/a",
        "~ RayCluster/sonoray",
        '    spec.rayVersion: "1" -> "2"',
    ]
    assert Difference().lines() == ["nothing would change"]
