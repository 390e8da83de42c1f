"""What the manifests run: entrypoints, configurations and arguments that the code accepts."""

import os
import re
import shlex
from importlib import import_module
from pathlib import Path
from typing import Any

from typer.main import get_command

from sonoray_jobs.cli.main import app
from sonoray_jobs.road.config import load_road
from sonoray_jobs.training.train_checks import check_cpus
from sonoray_serve.app import AppArgs

K8S = Path(__file__).resolve().parents[2] / "k8s"
COMMANDS: Any = get_command(app).commands  # type: ignore[attr-defined]
UNITS = {"": 1.0, "m": 1e-3, "Mi": 2.0**20, "Gi": 2.0**30}
SYSTEM = {"cpu": 1.05, "memory": 0.8 * UNITS["Gi"]}
"""What kind's own pods (0.95 CPU, 290 Mi) and the KubeRay operator (0.1 CPU, 512 Mi) ask for."""


def worker_total(spec: dict[str, Any], resource: str) -> float:
    """What Ray will find on all workers."""
    total = 0.0
    for group in spec["workerGroupSpecs"]:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        total += group["replicas"] * float(limits.get(resource, 0))
    return total


def requested(manifests: Any, component: str, resource: str) -> float:
    """What the scheduler must find for all pods of a component."""
    total = 0.0
    for count, template in manifests.pods_of(component):
        for container in template["spec"]["containers"]:
            request = container["resources"]["requests"][resource]
            [(number, unit)] = re.findall(r"^([\d.]+)(\w*)$", request)
            total += count * float(number) * UNITS[unit]
    return total


def test_job_entrypoint_is_a_command_and_finds_its_files(manifests: Any) -> None:
    words = shlex.split(manifests.only("RayJob")["spec"]["entrypoint"])
    assert words[:4] == ["python", "-m", "sonoray_jobs.cli", "train"]
    params = COMMANDS["train"].make_context("train", words[4:]).params
    folder, file = os.path.split(params["config"])
    road = manifests.only("ConfigMap")
    assert file in road["data"]
    claims = [claim["metadata"]["name"] for claim in manifests.of_kind("PersistentVolumeClaim")]
    for template in manifests.ray_templates():
        pod = template["spec"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {
            mount["mountPath"]: volumes[mount["name"]]
            for mount in pod["containers"][0]["volumeMounts"]
        }
        assert mounts[folder]["configMap"]["name"] == road["metadata"]["name"]
        workspace = mounts[str(params["workspace"])]
        assert workspace["persistentVolumeClaim"]["claimName"] in claims


def test_commands_of_the_readme_exist() -> None:
    text = (K8S / "README.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("sonoray submit")]
    jobs = []
    for line in lines:
        submitted = COMMANDS["submit"].make_context("submit", shlex.split(line)[2:]).params
        jobs.append(submitted["job"])
        COMMANDS[jobs[-1]].make_context(jobs[-1], list(submitted["arguments"]))
    assert jobs == ["ingest", "bootstrap", "embed", "evaluate", "export"]


def test_road_loads_and_fits_the_workers(manifests: Any) -> None:
    road = load_road(str(manifests.folder / "road.toml"))
    for name, spec in manifests.ray_clusters():
        if name == manifests.only("RayService")["metadata"]["name"]:
            continue
        cpus, gpus = worker_total(spec, "cpu"), worker_total(spec, "nvidia.com/gpu")
        check_cpus(road, cpus)
        assert road.train.num_workers * road.train.gpus_per_worker <= gpus
        assert road.evaluate.actors * road.evaluate.actor_cpus <= cpus
        assert road.evaluate.actors * road.evaluate.actor_gpus <= gpus
        pools = 2 if road.embed.actor_gpus else 1
        assert pools * road.embed.actors * road.embed.actor_cpus + road.embed.decode_cpus <= cpus
        assert pools * road.embed.actors * road.embed.actor_gpus <= gpus


def test_gpu_overlay_asks_for_gpus_and_local_fits_a_laptop(variants: Any) -> None:
    for _, spec in variants["overlays/gpu"].ray_clusters():
        assert worker_total(spec, "nvidia.com/gpu") == spec["workerGroupSpecs"][0]["replicas"]
    for _, spec in variants["overlays/local"].ray_clusters():
        assert worker_total(spec, "nvidia.com/gpu") == 0
        assert worker_total(spec, "cpu") <= 2


def test_local_overlay_fits_the_node_that_it_names(variants: Any) -> None:
    """The platform beside one component at a time, on a node that runs Kubernetes itself too."""
    local = variants["overlays/local"]
    for path in (K8S / "README.md", local.folder / "kustomization.yaml"):
        words = " ".join(path.read_text(encoding="utf-8").split())
        [(cpus, gib)] = re.findall(r"node (?:of|with) (\d+) CPUs and (\d+) GiB", words)
        node = {"cpu": float(cpus), "memory": float(gib) * UNITS["Gi"]}
        for component in ("cluster", "train", "serve"):
            for resource, there in node.items():
                own = requested(local, component, resource)
                assert own > 0
                assert SYSTEM[resource] + requested(local, "platform", resource) + own <= there


def test_what_the_readme_waits_for_and_deletes_exists(variants: Any) -> None:
    text = (K8S / "README.md").read_text(encoding="utf-8")
    waits = r"kubectl -n sonoray (?:wait|rollout status|delete|describe) ([a-z]+)[/ ](?!-)([\w-]+)"
    named = set(re.findall(waits, text))
    there = {
        (item["kind"].lower(), item["metadata"]["name"])
        for item in variants["overlays/local"].objects
    }
    assert {kind for kind, _ in named} == {"deployment", "raycluster", "rayjob", "rayservice"}
    assert named <= there


def test_serve_configuration_is_one_that_the_application_takes(manifests: Any) -> None:
    from ray.serve.schema import ServeDeploySchema

    config = manifests.served()
    ServeDeploySchema.model_validate(config)
    [application] = config["applications"]
    module, _, attribute = application["import_path"].partition(":")
    assert callable(getattr(import_module(module), attribute))
    args = AppArgs.model_validate(application["args"])
    assert re.fullmatch(r"models:/[\w-]+/\d+", args.model)
    assert not args.insecure_local
    assert args.api_key_digests == ("0" * 64,)  # of no key: the manifest admits nobody as it stands
    mounts = {
        mount["mountPath"]
        for template in manifests.ray_templates()
        for mount in template["spec"]["containers"][0]["volumeMounts"]
    }
    assert args.workspace in mounts
    [spec] = [item["spec"]["rayClusterConfig"] for item in manifests.of_kind("RayService")]
    deployments = (args.config.ingress, args.config.vision, args.config.engine)
    for resource, field in (("cpu", "num_cpus"), ("nvidia.com/gpu", "num_gpus")):
        wanted = sum(getattr(item, field) * item.max_replicas for item in deployments)
        assert wanted <= worker_total(spec, resource)


def test_mlflow_command_is_one_that_mlflow_has(manifests: Any) -> None:
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    from mlflow.cli import cli

    [container] = manifests.only("Deployment")["spec"]["template"]["spec"]["containers"]
    program, name, *arguments = container["command"]
    assert program == "mlflow"
    params = cli.commands[name].make_context(name, arguments).params
    assert params["port"] == container["ports"][0]["containerPort"]
    mounts = tuple(mount["mountPath"] for mount in container["volumeMounts"])
    assert params["backend_store_uri"].removeprefix("sqlite:///").startswith(mounts)
    assert params["artifacts_destination"].startswith(mounts)
    env = {item["name"]: item["value"] for item in container["env"]}
    assert env["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert env["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"


def test_ray_pods_reach_mlflow_by_the_name_of_its_service(manifests: Any) -> None:
    service = manifests.only("Service")
    template = manifests.only("Deployment")["spec"]["template"]
    assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    [port] = service["spec"]["ports"]
    address = f"{service['metadata']['name']}:{port['port']}"
    for ray in manifests.ray_templates():
        env = {item["name"]: item["value"] for item in ray["spec"]["containers"][0]["env"]}
        assert env["MLFLOW_TRACKING_URI"] == f"http://{address}"
    [container] = template["spec"]["containers"]
    env = {item["name"]: item["value"] for item in container["env"]}
    assert address in env["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
