"""Which objects a command means."""

from pathlib import Path

import pytest

from sonoray.errors import ConfigError
from sonoray_jobs.cli.usage import accepts
from sonoray_jobs.cluster.kubernetes.site_commands import _chosen, render_site
from sonoray_jobs.cluster.kubernetes.yaml_files import name_of, read_manifests, to_yaml


def names(*parts: str) -> list[str]:
    _, objects = _chosen("dev-cpu", parts, None, accepts)
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


def test_manifests_of_others_are_read_and_checked(tmp_path: Path):
    rendered = render_site(site="dev-cpu", out=tmp_path / "tree", accepts=accepts)
    assert rendered.written
    assert render_site(site="dev-cpu", out=tmp_path / "tree", accepts=accepts).written == ()
    read = read_manifests(tmp_path / "tree")
    assert sorted(map(name_of, read)) == sorted(map(name_of, rendered.objects))
    _chosen("dev-cpu", (), tmp_path / "tree", accepts)
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
