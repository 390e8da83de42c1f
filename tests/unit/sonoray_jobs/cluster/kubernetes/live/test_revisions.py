"""Revisions say which image ran."""

from sonoray_jobs.cluster.kubernetes.live.revisions import _image_of
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
