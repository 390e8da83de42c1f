"""Revisions say when they were applied, and which image and model ran."""

from sonoray_jobs.cluster.kubernetes.live.contents import image_of, model_of
from sonoray_jobs.cluster.kubernetes.live.revisions import History, Revision, carried_over
from sonoray_jobs.cluster.kubernetes.render_site import render
from sonoray_jobs.cluster.kubernetes.site import load_site
from sonoray_jobs.cluster.kubernetes.yaml_files import name_of


def test_a_revision_names_the_image_of_its_objects_and_not_of_the_site_file():
    site, *rest = load_site("dev-cpu")
    image = site.image.model_copy(update={"tag": "before"})
    earlier = site.model_copy(update={"image": image})
    for part in ("service", "cluster"):
        objects = render(earlier, *rest).parts[part]
        assert image_of(objects) == earlier.image_name
        assert image_of(objects) != site.image_name
    mixed = [*render(earlier, *rest).parts["cluster"], *render(site, *rest).parts["service"]]
    assert image_of(mixed) == site.image_name
    assert image_of([{"kind": "ConfigMap", "data": {}}]) == ""


def test_a_second_apply_of_a_part_takes_the_place_of_the_first():
    site, *rest = load_site("dev-cpu")
    first = render(site, *rest)
    changed = site.service.model_copy(update={"model": "models:/new/2"})
    second = render(site.model_copy(update={"service": changed}), "dataset = 'kidney'\n")
    old = [*first.parts["platform"], *first.parts["cluster"], *first.parts["service"]]
    now = [*carried_over(old, second.parts["service"], {"service"}), *second.parts["service"]]
    assert model_of(old) == site.service.model
    assert model_of(now) == "models:/new/2"
    assert len(now) == len(old)
    # the standing cluster still mounts the road of before
    kept = carried_over(old, second.parts["platform"], {"platform"})
    roads = [name_of(each) for each in kept if "road" in name_of(each)]
    assert roads == [name_of(each) for each in first.parts["platform"] if "road" in name_of(each)]
    assert len(roads) == 1
    assert carried_over(old, [], {"platform", "cluster", "service"}) == []
    assert model_of(carried_over(old, [], {"service"})) == ""


def test_a_history_is_a_table():
    made = [
        Revision(number=9, applied="2026-05-04T12:00:00Z", image="", model=""),
        Revision(number=10, applied="2026-05-05T12:00:00Z", image="sonoray:2", model="models:/m/1"),
    ]
    assert History(namespace="n", revisions=tuple(made)).lines() == [
        "9   2026-05-04T12:00:00Z  no Ray     no service",
        "10  2026-05-05T12:00:00Z  sonoray:2  models:/m/1",
    ]
    assert History(namespace="n", revisions=()).lines() == [
        "namespace n has no revision; see: sonoray k8s apply"
    ]
