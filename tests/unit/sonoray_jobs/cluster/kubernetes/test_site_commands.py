"""Which objects a command means."""

from pathlib import Path

import pytest

from sonoray.errors import ConfigError
from sonoray_jobs.cli.usage import accepts
from sonoray_jobs.cluster.kubernetes.manifests.naming import Object
from sonoray_jobs.cluster.kubernetes.render_site import render
from sonoray_jobs.cluster.kubernetes.site import load_site
from sonoray_jobs.cluster.kubernetes.site_commands import _chosen, render_site
from sonoray_jobs.cluster.kubernetes.yaml_files import (
    in_order,
    name_of,
    read_manifests,
    to_yaml,
)


def names(*parts: str) -> list[str]:
    _, objects, _ = _chosen("dev-cpu", parts, None, accepts)
    return [name_of(each) for each in objects]


def test_a_part_comes_with_the_road_that_it_mounts():
    road, cluster = names("cluster")
    assert road.startswith("ConfigMap/sonoray-road-")
    assert cluster == "RayCluster/sonoray"
    assert not [name for name in names("service") if "sonoray-road" in name]
    assert len(names()) == len(set(names()))
    assert names()[0] == "Namespace/sonoray"


def test_a_part_that_is_none_or_not_enabled_is_refused():
    with pytest.raises(ConfigError, match="'clustr' is no part"):
        names("clustr")
    with pytest.raises(ConfigError, match="has no schedule"):
        names("schedule")
    with pytest.raises(ConfigError, match="leave one out"):
        _chosen("dev-cpu", ["cluster"], Path("x"), accepts)


def rendered_parts() -> list[list[Object]]:
    return list(render(*load_site("dev-cpu")).parts.values())


def test_an_object_of_another_namespace_is_refused_and_one_of_none_gets_the_sites():
    one = {"kind": "ConfigMap", "metadata": {"name": "a"}}
    [given] = in_order([one], "ward")
    assert given["metadata"] == {"name": "a", "namespace": "ward"}
    other = {"kind": "ConfigMap", "metadata": {"name": "a", "namespace": "other"}}
    with pytest.raises(ConfigError, match=r"ConfigMap/a is of namespace 'other' and the site's"):
        in_order([other], "ward")


def test_manifests_of_others_are_read_and_checked(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    rendered = render_site(site="dev-cpu", out=tmp_path / "tree", accepts=accepts)
    assert rendered.written
    assert render_site(site="dev-cpu", out=tmp_path / "tree", accepts=accepts).written == ()
    read = read_manifests(tmp_path / "tree")
    assert sorted(map(name_of, read)) == sorted(map(name_of, rendered.objects))
    with caplog.at_level("WARNING"):
        _, objects, whole = _chosen("dev-cpu", (), tmp_path / "tree", accepts)
    # as `apply` without parts would do it, and no step starts
    standing = [name_of(each) for part in rendered_parts() for each in part]
    assert sorted(map(name_of, objects)) == sorted(standing)
    assert "RayJobs are left out, such as RayJob/" in caplog.text
    kinds = [each["kind"] for each in objects]
    assert kinds[0] == "Namespace"
    assert kinds.index("RayCluster") > max(
        number for number, kind in enumerate(kinds) if kind in ("NetworkPolicy", "ServiceAccount")
    )
    assert whole == set()
    [cluster] = [each for each in read if each["kind"] == "RayCluster"]
    cluster["spec"]["workerGroupSpecs"][0]["minReplicas"] = 9
    (tmp_path / "wrong.yaml").write_text(to_yaml([cluster]))
    with pytest.raises(ConfigError, match="minReplicas 9 exceeds"):
        _chosen("dev-cpu", (), tmp_path / "wrong.yaml", accepts)


@pytest.mark.parametrize(
    ("text", "told"),
    [("", "holds no Kubernetes object"), ("a: [b", "is no YAML"), ("x", "no object")],
)
def test_what_is_no_manifest_is_refused(tmp_path: Path, text: str, told: str):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=told):
        read_manifests(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_manifests(tmp_path / "gone.yaml")
