"""Revisions say when they were applied, and which image and model ran."""

from sonoray_jobs.cluster.kubernetes.live.revisions import History, Revision, _image_of, _model_of
from sonoray_jobs.cluster.kubernetes.render_site import render
from sonoray_jobs.cluster.kubernetes.site import load_site


def test_a_revision_names_the_image_of_its_objects_and_not_of_the_site_file():
    site, *rest = load_site("dev-cpu")
    image = site.image.model_copy(update={"tag": "before"})
    earlier = site.model_copy(update={"image": image})
    for part in ("service", "cluster"):
        objects = render(earlier, *rest).parts[part]
        assert _image_of(objects) == earlier.image_name
        assert _image_of(objects) != site.image_name
    assert _image_of([{"kind": "ConfigMap", "data": {}}]) == ""


def test_a_revision_names_the_model_of_its_service():
    rendered = render(*load_site("dev-cpu"))
    assert _model_of(rendered.parts["service"]) == rendered.site.service.model
    assert _model_of(rendered.parts["cluster"]) == ""


def test_a_history_tells_what_is_in_force():
    made = [
        Revision(number=9, applied="2026-05-04T12:00:00Z", image="sonoray:1", model=""),
        Revision(number=10, applied="2026-05-05T12:00:00Z", image="sonoray:2", model="models:/m/1"),
    ]
    assert History(namespace="n", revisions=tuple(made)).lines() == [
        "9   2026-05-04T12:00:00Z  sonoray:1  no service",
        "10  2026-05-05T12:00:00Z  sonoray:2  models:/m/1  (in force)",
    ]
    assert History(namespace="n", revisions=()).lines() == [
        "namespace n has no revision; see: sonoray k8s apply"
    ]
