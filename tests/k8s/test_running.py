"""What the manifests run: entrypoints, Serve's arguments, MLflow's command, by the real code."""

import os
import shlex
import tomllib
from importlib import import_module
from typing import Any

import pytest
import yaml

from sonoray_jobs.cluster.kubernetes.site import load_site
from sonoray_jobs.road.config import load_road
from sonoray_jobs.training.train_checks import check_cpus
from sonoray_serve.settings import AppArgs

STEPS = ("ingest", "bootstrap", "embed", "train", "evaluate", "recognize", "export")


def test_every_step_is_a_job_whose_entrypoint_sonoray_accepts(
    manifests: Any, accepted: Any
) -> None:
    assert tuple(manifests.rendered.jobs) == STEPS
    for name, job in manifests.rendered.jobs.items():
        words = shlex.split(job["spec"]["entrypoint"])
        assert words[0] == "timeout"
        assert int(words[3]) == manifests.site.jobs[name].deadline_s
        place = words.index("sonoray_jobs.cli")
        assert words[place - 2 : place + 2] == ["python", "-m", "sonoray_jobs.cli", name]
        assert accepted(words[place + 1], words[place + 2 :]) == ""
        assert accepted(words[place + 1], [*words[place + 2 :], "--nonsense"]) != ""


def test_a_job_is_tried_once_and_its_deadline_counts_from_its_start(manifests: Any) -> None:
    for name, job in manifests.rendered.jobs.items():
        spec, asked = job["spec"], manifests.site.jobs[name]
        assert spec["backoffLimit"] == 0
        whole = asked.start_deadline_s + asked.deadline_s
        assert spec["activeDeadlineSeconds"] > whole
        assert spec["preRunningDeadlineSeconds"] == asked.start_deadline_s


def test_a_failed_job_keeps_its_head_and_loses_its_workers_at_once(manifests: Any) -> None:
    for job in manifests.rendered.jobs.values():
        rules = job["spec"]["deletionStrategy"]["deletionRules"]
        failed = {
            rule["policy"]: rule["condition"]["ttlSeconds"]
            for rule in rules
            if rule["condition"].get("jobStatus") == "FAILED"
        }
        assert failed["DeleteWorkers"] == 0
        assert failed["DeleteCluster"] == manifests.site.keep.failed_s >= 3600
        assert failed["DeleteSelf"] >= failed["DeleteCluster"]


def test_a_queue_suspends_what_kuberay_shuts_down_by_itself(tmp_path: Any) -> None:
    from sonoray_jobs.cluster.kubernetes.render_site import render

    path = tmp_path / "site.toml"
    path.write_text('extends = "dev-cpu"\n[queue]\nname = "ultrasound"\n')
    job = render(*load_site(str(path))).jobs["train"]
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "ultrasound"
    assert job["spec"]["suspend"] is True
    assert job["spec"]["shutdownAfterJobFinishes"] is True
    # rules or policies would keep a failed head for ever: nothing counts its time then
    assert "deletionStrategy" not in job["spec"]
    assert job["spec"]["ttlSecondsAfterFinished"] >= 0
    assert "enableInTreeAutoscaling" not in job["spec"]["rayClusterSpec"]


def test_the_head_takes_no_work_and_the_driver_runs_on_a_worker(manifests: Any) -> None:
    for name, cluster in manifests.clusters():
        assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0", name
    for job in manifests.rendered.jobs.values():
        assert yaml.safe_load(job["spec"]["entrypointResources"]) == {"driver": 1}
        for group in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
            given = shlex.split(group["rayStartParams"]["resources"])
            assert [yaml.safe_load(each)["driver"] for each in given] == [1]


def test_the_road_fits_the_workers_of_each_job(manifests: Any, tmp_path: Any) -> None:
    [road_map] = [
        each for each in manifests.of_kind("ConfigMap") if "road.toml" in each.get("data", {})
    ]
    path = tmp_path / "road.toml"
    path.write_text(road_map["data"]["road.toml"])
    road = load_road(str(path))
    groups = manifests.site.groups
    for name in ("train", "embed", "evaluate"):
        workers = manifests.site.jobs[name].workers
        cpus = sum(number * float(groups[group].cpu) for group, number in workers.items())
        gpus = sum(number * groups[group].gpus for group, number in workers.items())
        if name == "train":
            check_cpus(road, cpus)
            assert road.train.num_workers * road.train.gpus_per_worker <= gpus
        if name == "evaluate":
            assert road.evaluate.actors * road.evaluate.actor_gpus <= gpus


def test_serve_takes_its_configuration_and_the_file_that_it_names(
    manifests: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    from ray.serve.schema import ServeDeploySchema

    service = manifests.only("RayService")
    config = yaml.safe_load(service["spec"]["serveConfigV2"])
    ServeDeploySchema.model_validate(config)
    [application] = config["applications"]
    module, _, attribute = application["import_path"].partition(":")
    assert callable(getattr(import_module(module), attribute))
    assert set(application["args"]) == {"file"}
    [settings] = [
        each for each in manifests.of_kind("ConfigMap") if "service.toml" in each.get("data", {})
    ]
    path = tmp_path / "service.toml"
    path.write_text(settings["data"]["service.toml"])
    args = AppArgs.model_validate({"file": str(path)})
    assert args.model == manifests.site.service.model
    assert args.config == manifests.site.service.replicas
    assert not args.insecure_local
    assert args.api_key_digests == ()
    assert args.api_key_digests_folder
    delay = service["spec"]["rayClusterDeletionDelaySeconds"]
    assert delay > args.config.limits.deadline_s


def test_another_model_brings_up_another_cluster_and_another_key_does_not(tmp_path: Any) -> None:
    """KubeRay upgrades by a new cluster where the cluster's own part differs."""
    from sonoray_jobs.cluster.kubernetes.render_site import render

    def service(text: str) -> Any:
        path = tmp_path / "site.toml"
        path.write_text(f'extends = "dev-cpu"\n[service]\n{text}\n')
        rendered = render(*load_site(str(path)))
        return rendered.parts["service"][-1]["spec"]["rayClusterConfig"]

    one = service('model = "models:/m/1"')
    assert service('model = "models:/m/2"') != one
    assert service('model = "models:/m/1"\nreplicas.limits.max_images = 4') != one
    assert "keys" in str(one)
    assert not [key for key in ("digest", "sha256") if key in str(one)]


def test_mlflow_takes_its_command(manifests: Any) -> None:
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    from mlflow.cli import cli

    [container] = manifests.only("Deployment")["spec"]["template"]["spec"]["containers"]
    words = container["command"]
    if words[0] == "/bin/sh":
        words = shlex.split(words[-1].rpartition("exec ")[2])
    program, name, *arguments = words
    assert program == "mlflow"
    params = cli.commands[name].make_context(name, arguments).params
    assert params["port"] == container["ports"][0]["containerPort"]
    env = {item["name"]: item.get("value") for item in container["env"]}
    assert env["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert env["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
    hosts = env["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    namespace = manifests.site.namespace
    for name in ("mlflow", f"mlflow.{namespace}", f"mlflow.{namespace}.svc.cluster.local"):
        assert f"{name}:5000" in hosts
    assert set(manifests.site.mlflow.hosts) <= set(hosts)


def test_scheduled_steps_are_submissions_that_sonoray_accepts(
    production: Any, accepted: Any
) -> None:
    cron = production.only("CronJob")
    [container] = cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    lines = container["args"][0].splitlines()
    assert len(lines) == len(production.site.schedule.steps)
    for line, step in zip(lines, production.site.schedule.steps, strict=True):
        program, name, *arguments = shlex.split(line)
        assert (program, name) == ("sonoray", "submit")
        assert accepted(name, arguments) == ""
        own = arguments[arguments.index("--") + 1 :]
        assert arguments[0] == step
        assert accepted(step, own) == ""


def test_every_node_starts_ray_by_our_module(manifests: Any) -> None:
    """The shell line turns KubeRay's command into ours, with its quotes."""
    import subprocess

    for _, cluster in manifests.clusters():
        for node in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            [container, *_] = node["template"]["spec"]["containers"]
            assert container["command"] == ["/bin/bash", "-c", "--"]
            annotations = node["template"]["metadata"]["annotations"]
            assert annotations["ray.io/overwrite-container-cmd"] == "true"
    script = container["args"][0].replace("exec ", "exec echo ").replace("ulimit -n 65536; ", "")
    generated = "ray start --head --resources='{\"driver\": 1}' --block"
    done = subprocess.run(
        [*container["command"], script],
        env={"KUBERAY_GEN_RAY_START_CMD": generated, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    expected = (
        'python -m sonoray_jobs.cluster.ray_node start --head --resources={"driver": 1} --block'
    )
    assert done.stdout.strip() == expected


def test_nodes_are_asked_soon_and_workers_of_a_service_as_kuberay_asks_them(manifests: Any) -> None:
    for name, cluster in manifests.clusters():
        groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
        for node in groups:
            template = node["template"]
            probe = template["spec"]["containers"][0].get("readinessProbe")
            part = template["metadata"]["labels"]["sonoray.io/part"]
            if part == "service" and node is not groups[0]:
                assert probe is None, name  # KubeRay asks for Serve's proxy too
                continue
            assert probe["httpGet"] == {"path": "/api/healthz", "port": 52365}
            assert probe["initialDelaySeconds"] + probe["periodSeconds"] <= 3
            assert probe["periodSeconds"] * probe["failureThreshold"] >= 50


def test_ray_starts_on_a_busy_node(manifests: Any) -> None:
    """Every port of an agent is given, by us or by KubeRay, and Ray knows each of the settings."""
    from ray._private import ray_constants
    from ray.scripts import scripts

    options = {name.lstrip("-") for option in scripts.start.params for name in option.opts}
    agents = {name for name in options if "agent" in name or name == "metrics-export-port"}
    by_kuberay = {"metrics-export-port", "dashboard-agent-listen-port"}
    assert hasattr(ray_constants, "RAY_DASHBOARD_STARTUP_TIMEOUT_S")
    for name, cluster in manifests.clusters():
        for node in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            assert agents <= set(node["rayStartParams"]) | by_kuberay, name
            env = {
                each["name"]: each.get("value")
                for each in node["template"]["spec"]["containers"][0]["env"]
            }
            assert int(env["RAY_DASHBOARD_STARTUP_TIMEOUT_S"]) == 300
            assert int(env["RAY_agent_register_timeout_ms"]) == 300_000


def test_roads_have_no_secrets_and_are_named_by_their_content(manifests: Any) -> None:
    for each in manifests.of_kind("ConfigMap"):
        if "road.toml" in each["data"]:
            tomllib.loads(each["data"]["road.toml"])
            assert each["immutable"] is True
            assert each["metadata"]["name"] != "sonoray-road"
