"""The site file: what is refused, and what the values become."""

import re
from pathlib import Path

import pytest

from sonoray.errors import ConfigError
from sonoray_jobs.cluster.kubernetes.quantity import to_number
from sonoray_jobs.cluster.kubernetes.render_site import render
from sonoray_jobs.cluster.kubernetes.site import default_tag, load_site, packaged_sites

MISTAKES = {
    '[groups.workers]\ncpu = "2"\nmemory = "6Gi"\nmin = 3': "min = 3 exceeds max",
    "[groups.workers]\ngpus = 1": "gpus = 1 and gpu_node = ''",
    '[groups.workers]\ngpus = 0.5\ngpu_node = "a"': "groups.workers.gpus = 0.5",
    '[groups.workers]\ngpus = 1\ngpu_node = "h100"': "gpu_nodes has none",
    '[groups.workers]\ncpu = "four"': "'four' is no quantity",
    '[groups.workers]\ncpu = "0"': "'0' is nothing",
    "[groups.workers]\nidle_timeout_s = 1": "idle_timeout_s = 1",
    'namespce = "x"': "unknown key 'namespce'",
    'namespace = "Not_A_Name"': "namespace = 'Not_A_Name'",
    'road = "nowhere.toml"': "road = 'nowhere.toml' is no file",
    '[image]\nname = "host:5000/sonoray:0.2.0"': "holds a tag; write name = 'host",
    '[image]\ntag = "latest"': "tag = 'latest' names another image every day",
    '[image]\ndigest = "sha256:abc"': "image.digest = 'sha256:abc'",
    '[storage]\nworkspace_access = "ReadWriteSometimes"': "ReadWriteSometimes",
    '[cluster]\ngroups = ["gpus"]': "cluster.groups names the group 'gpus'",
    "[jobs.train]\nworkers = { gpus = 1 }": "jobs.train.workers names the group 'gpus'",
    "[jobs.train]\nworkers = { workers = 0 }": "jobs.train.workers",
    "[jobs.trian]\nworkers = { workers = 1 }": "trian",
    "[jobs.train]\nretries = 9": "jobs.train.retries = 9",
    "[jobs.train]\nworkers = { workers = 100 }": "quota.cpu is 32",
    "[keep]\nrecord_s = 1": "record_s = 1 is below",
    '[schedule]\ncron = "daily"': "cron = 'daily'",
    '[schedule]\ncron = "99 2 * * *"': "'99' is no field",
    '[schedule]\ncron = "0 2 * *"': "has 4 fields, not 5",
    '[schedule]\ncron = "0 2 * * *"\n[cluster]\nenabled = false': "set cluster.enabled",
    '[service]\nmodel = "llava"': "service.model = 'llava'",
    '[service]\nmodel = ""': "model and group are required",
    '[service]\nmodel_digest = "abc"': "model_digest = 'abc'",
    '[service]\nredis = { address = "redis:6379" }': "cidrs is required",
    "[service.replicas.ingress]\nnum_cpus = 1\nmax_ongoing = 8\nmax_queued = 8": "must exceed",
    "[mlflow]\nreplicas = 2": "needs PostgreSQL",
    '[mlflow]\npostgres_secret = "p"': "belong together",
    '[mlflow]\npostgres_secret = "p"\nartifacts = "s3://b"': "postgres_cidrs is required",
    '[mlflow]\naccounts_secret = "a"': "accounts_secret needs postgres_secret",
    '[mlflow]\npostgres_secret = "p"\nartifacts = "s3://b"\npostgres_cidrs = ["192.0.2.1/32"]': (
        "needs object_store.endpoint"
    ),
    '[object_store]\nendpoint = "https://s3.example.org"': "needs secret and cidrs",
    '[object_store]\nendpoint = "s3.example.org"': "object_store.endpoint",
    '[service.replicas]\ndicomweb = "https://pacs.example.org/dicom-web"': "needs pacs.url",
    '[pacs]\nurl = "https://pacs.example.org/dicom-web"': "a url needs cidrs",
    '[network]\ndns = ["corends"]': "corends",
    '[network]\napi_server_cidrs = ["10.0.0.0/40"]': "10.0.0.0/40",
    '[[network.clients]]\nnamespace = { a = "b" }\npods = {}': "network.clients",
    "[quota]\npods = 1": "quota.pods = 1",
}


def write(folder: Path, text: str) -> Path:
    path = folder / "site.toml"
    path.write_text(f'extends = "dev-cpu"\n{text}\n')
    return path


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_in_a_site_is_refused_in_one_line(tmp_path: Path, text: str):
    with pytest.raises(ConfigError, match=re.escape(MISTAKES[text])) as refused:
        load_site(str(write(tmp_path, text)))
    assert "\n" not in str(refused.value)


def test_a_service_that_fetches_studies_may_reach_the_pacs_with_its_token(tmp_path: Path):
    pacs = """
[pacs]
url = "https://pacs.example.org/dicom-web"
cidrs = ["192.0.2.7/32"]
secret = "sonoray-pacs"
"""
    for replicas, reaches in (
        ("", False),
        ('[service.replicas]\ndicomweb = "https://pacs.example.org/dicom-web"', True),
    ):
        rendered = render(*load_site(str(write(tmp_path, pacs + replicas))))
        policies = [
            each["spec"]
            for each in rendered.objects
            if each["kind"] == "NetworkPolicy" and each["metadata"]["name"] == "service-pacs"
        ]
        (service,) = (each for each in rendered.objects if each["kind"] == "RayService")
        (group,) = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
        env = group["template"]["spec"]["containers"][0]["env"]
        assert ("SONORAY_DICOMWEB_TOKEN" in [each["name"] for each in env]) == reaches
        assert len(policies) == reaches
        if reaches:
            blocks = [to["ipBlock"]["cidr"] for to in policies[0]["egress"][0]["to"]]
            assert blocks == ["192.0.2.7/32"]


def test_a_site_says_only_what_is_different(tmp_path: Path):
    digest = f"sha256:{'a' * 64}"
    path = write(
        tmp_path,
        f'namespace = "liver"\n[image]\nname = "registry.example.org/sonoray"\ndigest = "{digest}"',
    )
    site, road = load_site(str(path))
    assert site.namespace == "liver"
    assert site.image_name == f"registry.example.org/sonoray:{default_tag()}@{digest}"
    assert "dataset" in road
    (tmp_path / "dev-cpu.road.toml").write_text('dataset = "liver"\n')
    assert load_site(str(path))[1] == 'dataset = "liver"\n'


def test_a_road_that_is_wrong_is_refused(tmp_path: Path):
    path = write(tmp_path, 'road = "own.toml"')
    (tmp_path / "own.toml").write_text("[train]\nworkers = 2\n")
    with pytest.raises(ConfigError, match=r"unknown key 'train\.workers'"):
        load_site(str(path))


def test_packaged_sites_load():
    assert set(packaged_sites()) == {"dev-cpu", "gpu-prod"}
    for name in packaged_sites():
        assert load_site(name)[0].name == name


@pytest.mark.parametrize(
    ("quantity", "number"),
    [("500m", 0.5), ("4", 4), (2, 2), ("16Gi", 16 * 2**30), ("1k", 1000), ("1.5Gi", 1.5 * 2**30)],
)
def test_quantities_are_read(quantity: object, number: float):
    assert to_number(quantity) == number


@pytest.mark.parametrize("quantity", ["", "four", "1 Gi", "-1", "1gi", None, "1e9999x"])
def test_what_is_no_quantity_is_refused(quantity: object):
    with pytest.raises(ValueError, match="is no quantity"):
        to_number(quantity)
