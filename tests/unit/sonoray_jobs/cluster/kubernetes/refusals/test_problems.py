"""Planted mistakes: each is refused in one line that names it, before anything is applied."""

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from sonoray.errors import ConfigError
from sonoray_jobs.cli.usage import accepts
from sonoray_jobs.cluster.kubernetes.refusals.problems import find_problems, require_sound
from sonoray_jobs.cluster.kubernetes.refusals.walk import cluster_of
from sonoray_jobs.cluster.kubernetes.render_site import render
from sonoray_jobs.cluster.kubernetes.site import load_site

Object = dict[str, Any]


@cache
def sound() -> list[Object]:
    return render(*load_site("gpu-prod")).objects


def pick(objects: list[Object], kind: str, name: str | None = None) -> Object:
    return next(
        each
        for each in objects
        if each["kind"] == kind and name in (None, each["metadata"]["name"])
    )


def cluster(made: Object) -> Object:
    found = cluster_of(made)
    assert found is not None
    return found


def group(made: Object) -> Object:
    found: Object = cluster(made)["workerGroupSpecs"][0]
    return found


def pod(made: Object) -> Object:
    found: Object = group(made)["template"]["spec"]
    return found


def container(made: Object) -> Object:
    found: Object = pod(made)["containers"][0]
    return found


def resources(made: Object) -> Object:
    found: Object = container(made)["resources"]
    return found


def mlflow(made: Object) -> Object:
    found: Object = made["spec"]["template"]["spec"]["containers"][0]
    return found


def road(text: str) -> Callable[[list[Object]], None]:
    def change(objects: list[Object]) -> None:
        [made] = [each for each in objects if "road.toml" in each.get("data", {})]
        made["data"]["road.toml"] = text

    return change


def settings(old: str, new: str) -> Callable[[list[Object]], None]:
    def change(objects: list[Object]) -> None:
        [made] = [each for each in objects if "service.toml" in each.get("data", {})]
        assert old in made["data"]["service.toml"]
        made["data"]["service.toml"] = made["data"]["service.toml"].replace(old, new)

    return change


def on(kind: str, change: Callable[[Object], Any], name: str | None = None):
    return lambda objects: change(pick(objects, kind, name))


def serve(old: str, new: str):
    def change(made: Object) -> None:
        text = made["spec"]["serveConfigV2"]
        assert old in text
        made["spec"]["serveConfigV2"] = text.replace(old, new)

    return on("RayService", change)


def entrypoint(old: str, new: str):
    def change(made: Object) -> None:
        assert old in made["spec"]["entrypoint"]
        made["spec"]["entrypoint"] = made["spec"]["entrypoint"].replace(old, new)

    return on("RayJob", change, "train")


def egress(objects: list[Object]) -> None:
    pick(objects, "NetworkPolicy", "allow-dns")["spec"].pop("egress")


MISTAKES: dict[str, tuple[Callable[[list[Object]], Any], str]] = {
    # sizes
    "min above max": (
        on("RayCluster", lambda o: group(o).update(minReplicas=50)),
        "minReplicas 50",
    ),
    "replicas out of range": (
        on("RayCluster", lambda o: group(o).update(replicas=50)),
        "replicas 50 is not between",
    ),
    "replicas a text": (on("RayCluster", lambda o: group(o).update(replicas="2")), "replicas '2'"),
    "replicas negative": (on("RayCluster", lambda o: group(o).update(replicas=-1)), "replicas -1"),
    "range without autoscaler": (
        on("RayJob", lambda o: group(o).update(maxReplicas=9), "train"),
        "without an autoscaler",
    ),
    "idle timeout negative": (
        on("RayCluster", lambda o: group(o).update(idleTimeoutSeconds=-5)),
        "idleTimeoutSeconds -5",
    ),
    "no worker group": (
        on("RayCluster", lambda o: cluster(o).update(workerGroupSpecs=[])),
        "has no worker group",
    ),
    "two groups of one name": (
        on(
            "RayJob",
            lambda o: cluster(o)["workerGroupSpecs"].append(copy.deepcopy(group(o))),
            "train",
        ),
        "two groups are called 'data'",
    ),
    "work on the head": (
        on("RayCluster", lambda o: cluster(o)["headGroupSpec"]["rayStartParams"].clear()),
        "the head takes work",
    ),
    # modes and versions
    "upgrade mode of a cluster": (
        on("RayCluster", lambda o: o["spec"].update(upgradeStrategy={"type": "Rolling"})),
        "upgradeStrategy.type 'Rolling'",
    ),
    "upgrade mode of a service": (
        on("RayService", lambda o: o["spec"].update(upgradeStrategy={"type": "Rolling"})),
        "upgradeStrategy.type 'Rolling'",
    ),
    "upgrade mode of a job": (
        on("RayJob", lambda o: o["spec"].update(upgradeStrategy={"type": "None"}), "train"),
        "choose one of none here",
    ),
    "upgrade in steps without gateway": (
        on(
            "RayService",
            lambda o: o["spec"].update(
                upgradeStrategy={"type": "NewClusterWithIncrementalUpgrade"}
            ),
        ),
        "gatewayClassName",
    ),
    "submission mode": (
        on("RayJob", lambda o: o["spec"].update(submissionMode="Magic"), "train"),
        "submissionMode 'Magic'",
    ),
    "auth mode": (
        on("RayCluster", lambda o: cluster(o).update(authOptions={"mode": "password"})),
        "authOptions.mode 'password'",
    ),
    "auth disabled": (
        on("RayService", lambda o: cluster(o).update(authOptions={"mode": "disabled"})),
        "authOptions.mode 'disabled'",
    ),
    "TLS behind an alpha gate": (
        on("RayCluster", lambda o: cluster(o).update(tlsOptions={"enabled": True})),
        "tlsOptions",
    ),
    "Ray version": (
        on("RayCluster", lambda o: cluster(o).update(rayVersion="2.9.0")),
        "rayVersion '2.9.0'",
    ),
    "image of another Ray": (
        on("Deployment", lambda o: None)
        if False
        else on(
            "RayCluster",
            lambda o: [
                each.update(image="sonoray:0.1.0-ray2.9.0")
                for spec in (cluster(o)["headGroupSpec"], *cluster(o)["workerGroupSpecs"])
                for each in spec["template"]["spec"]["containers"]
            ],
        ),
        "holds Ray 2.9.0",
    ),
    "two images in a cluster": (
        on("RayCluster", lambda o: container(o).update(image="sonoray:0.0.9")),
        "have the images",
    ),
    "image without version": (
        on("Deployment", lambda o: mlflow(o).update(image="sonoray:latest")),
        "'sonoray:latest'",
    ),
    "no image": (on("Deployment", lambda o: mlflow(o).pop("image")), "has no image"),
    "pull policy": (
        on("RayCluster", lambda o: container(o).update(imagePullPolicy="Sometimes")),
        "imagePullPolicy 'Sometimes'",
    ),
    "restart policy": (
        on(
            "RayJob",
            lambda o: o["spec"]["submitterPodTemplate"]["spec"].update(restartPolicy="No"),
            "train",
        ),
        "restartPolicy 'No'",
    ),
    "name too long": (
        on("RayCluster", lambda o: o["metadata"].update(name="s" * 60)),
        "name of 60 characters",
    ),
    "no name": (on("RayJob", lambda o: o["metadata"].pop("name"), "train"), "has no name"),
    # jobs
    "negative backoff": (
        on("RayJob", lambda o: o["spec"].update(backoffLimit=-1), "train"),
        "backoffLimit -1",
    ),
    "many tries": (
        on("RayJob", lambda o: o["spec"].update(backoffLimit=20), "train"),
        "backoffLimit 20",
    ),
    "ttl without shutdown": (
        on("RayJob", lambda o: o["spec"].update(ttlSecondsAfterFinished=60), "train"),
        "ttlSecondsAfterFinished without shutdownAfterJobFinishes",
    ),
    "rules and shutdown": (
        on("RayJob", lambda o: o["spec"].update(shutdownAfterJobFinishes=True), "train"),
        "exclude each other",
    ),
    "a cluster for ever": (
        on("RayJob", lambda o: o["spec"].pop("deletionStrategy"), "train"),
        "keeps its cluster for ever",
    ),
    "suspended but not shut down": (
        on("RayJob", lambda o: o["spec"].update(suspend=True), "train"),
        "starts suspended",
    ),
    "job record before its cluster": (
        on(
            "RayJob",
            lambda o: o["spec"]["deletionStrategy"]["deletionRules"][1]["condition"].update(
                ttlSeconds=1
            ),
            "train",
        ),
        "on SUCCEEDED the RayJob goes before",
    ),
    "deletion policy": (
        on(
            "RayJob",
            lambda o: o["spec"]["deletionStrategy"]["deletionRules"][0].update(policy="All"),
            "train",
        ),
        "deletion policy 'All'",
    ),
    "workers deleted under an autoscaler": (
        on("RayJob", lambda o: cluster(o).update(enableInTreeAutoscaling=True), "train"),
        "DeleteWorkers does not work",
    ),
    "deadline shorter than the wait": (
        on("RayJob", lambda o: o["spec"].update(activeDeadlineSeconds=60), "train"),
        "activeDeadlineSeconds 60",
    ),
    "misspelt command": (entrypoint(".cli train", ".cli trian"), "there is no command 'trian'"),
    "unknown option": (entrypoint("--workspace", "--workspce"), "--workspce"),
    "no command of ours": (
        entrypoint("python -m sonoray_jobs.cli train", "true"),
        "is no python -m",
    ),
    "open quote": (entrypoint("train ", "train ' "), "cannot be read"),
    "config that nothing mounts": (
        entrypoint("/etc/sonoray/road.toml", "/etc/other/road.toml"),
        "nothing is mounted at /etc/other",
    ),
    "config that is not in its map": (
        entrypoint("/etc/sonoray/road.toml", "/etc/sonoray/raod.toml"),
        "has no raod.toml",
    ),
    "workspace that no volume holds": (
        entrypoint("--workspace /workspace", "--workspace /tmp"),
        "--workspace /tmp",
    ),
    "road with an unknown key": (road("[train]\nworkers = 2\n"), "unknown key 'train.workers'"),
    "road that is no TOML": (road("dataset = \n"), "RayJob/train"),
    "road with more GPUs than workers": (
        road("[train]\nnum_workers = 16\ngpus_per_worker = 1\n"),
        "16 GPUs and its workers have 2",
    ),
    # the service
    "serveConfigV2 that is no YAML": (
        on("RayService", lambda o: o["spec"].update(serveConfigV2="a: [b")),
        "serveConfigV2 is no YAML",
    ),
    "no application": (
        on("RayService", lambda o: o["spec"].update(serveConfigV2="{}")),
        "has no applications",
    ),
    "import path": (serve("app:build", "app:bild"), "import_path 'sonoray_serve.app:bild'"),
    "argument that the app lacks": (
        serve('"args": {', '"args": {"modle": "m", '),
        "unknown key 'modle'",
    ),
    "settings that are not mounted": (serve("service.toml", "servise.toml"), "servise.toml"),
    "service without keys": (settings("api_key_digests_folder", "model_name"), "no API key"),
    "service for everybody": (
        settings('workspace = "/models"', 'workspace = "/models"\ninsecure_local = true'),
        "insecure_local",
    ),
    "keys that are not mounted": (
        settings("/etc/sonoray-keys", "/etc/keys"),
        "no Secret is mounted",
    ),
    "models without a place": (settings('"/models"', '"/model"'), "args.workspace '/model'"),
    "replicas that find no GPU": (
        settings("num_gpus = 0.6", "num_gpus = 8"),
        "GPUs and its workers",
    ),
    "old cluster gone too soon": (
        on("RayService", lambda o: o["spec"].update(rayClusterDeletionDelaySeconds=60)),
        "rayClusterDeletionDelaySeconds 60",
    ),
    "fault tolerance without Redis": (
        on("RayService", lambda o: cluster(o).update(gcsFaultToleranceOptions={})),
        "without redisAddress",
    ),
    "password of Redis in plain sight": (
        on(
            "RayService",
            lambda o: cluster(o)["gcsFaultToleranceOptions"].update(redisPassword={"value": "x"}),
        ),
        "holds a password",
    ),
    "autoscaler without a token": (
        on("RayService", lambda o: cluster(o)["autoscalerOptions"].update(volumeMounts=[])),
        "its autoscaler has no token",
    ),
    # Pods
    "privileged in Ray": (
        on("RayCluster", lambda o: container(o)["securityContext"].update(privileged=True)),
        "is privileged",
    ),
    "privileged in a Deployment": (
        on("Deployment", lambda o: mlflow(o)["securityContext"].update(privileged=True)),
        "is privileged",
    ),
    "uid 0": (
        on(
            "RayService",
            lambda o: pod(o).update(securityContext={**pod(o)["securityContext"], "runAsUser": 0}),
        ),
        "runs as uid 0",
    ),
    "maybe root": (
        on("RayJob", lambda o: pod(o)["securityContext"].pop("runAsNonRoot"), "train"),
        "may run as root",
    ),
    "no seccomp": (
        on("RayJob", lambda o: pod(o)["securityContext"].pop("seccompProfile"), "train"),
        "no seccomp profile",
    ),
    "writable root": (
        on(
            "RayJob",
            lambda o: container(o)["securityContext"].pop("readOnlyRootFilesystem"),
            "train",
        ),
        "may write to its root",
    ),
    "capabilities": (
        on(
            "RayJob",
            lambda o: container(o)["securityContext"].update(
                capabilities={"drop": ["ALL"], "add": ["SYS_ADMIN"]}
            ),
            "train",
        ),
        "SYS_ADMIN",
    ),
    "escalation": (
        on(
            "RayJob",
            lambda o: container(o)["securityContext"].pop("allowPrivilegeEscalation"),
            "train",
        ),
        "may gain rights",
    ),
    "host network": (on("RayCluster", lambda o: pod(o).update(hostNetwork=True)), "hostNetwork"),
    "host path": (
        on(
            "RayCluster",
            lambda o: pod(o)["volumes"].append({"name": "h", "hostPath": {"path": "/"}}),
        ),
        "hostPath",
    ),
    "token of the API": (
        on("RayCluster", lambda o: pod(o).pop("automountServiceAccountToken")),
        "gets a token of the API",
    ),
    "mount without volume": (
        on(
            "RayCluster",
            lambda o: container(o)["volumeMounts"].append({"name": "nope", "mountPath": "/x"}),
        ),
        "'nope'",
    ),
    "two mounts at one path": (
        on(
            "RayCluster",
            lambda o: container(o)["volumeMounts"].append({"name": "road", "mountPath": "/tmp"}),
        ),
        "two volumes at '/tmp'",
    ),
    "emptyDir without end": (
        on(
            "Deployment", lambda o: o["spec"]["template"]["spec"]["volumes"][-1].update(emptyDir={})
        ),
        "without sizeLimit",
    ),
    "request above limit": (
        on("RayCluster", lambda o: resources(o)["requests"].update(cpu="64")),
        "above its limit 16",
    ),
    "request above limit in a Deployment": (
        on("Deployment", lambda o: mlflow(o)["resources"]["requests"].update(memory="9Gi")),
        "requests 9Gi of memory",
    ),
    "quantity": (
        on("RayCluster", lambda o: resources(o)["limits"].update(cpu="four")),
        "'four' is no quantity",
    ),
    "half a GPU": (
        on(
            "RayJob",
            lambda o: resources(o)["limits"].update({"nvidia.com/gpu": "500m"}),
            "bootstrap",
        ),
        "0.5 of nvidia.com/gpu",
    ),
    "no memory limit": (
        on("Deployment", lambda o: mlflow(o)["resources"]["limits"].pop("memory")),
        "no memory limit",
    ),
    "secret in the environment": (
        on(
            "Deployment",
            lambda o: mlflow(o)["env"].append({"name": "AWS_SECRET_ACCESS_KEY", "value": "abc"}),
        ),
        "AWS_SECRET_ACCESS_KEY",
    ),
    "no container": (
        on("Deployment", lambda o: o["spec"]["template"]["spec"].update(containers=[])),
        "has no container",
    ),
    # what does not fit together
    "claim that is not there": (
        lambda objects: objects.remove(pick(objects, "PersistentVolumeClaim")),
        "mounts PersistentVolumeClaim/sonoray-workspace",
    ),
    "account that is not there": (
        on("RayCluster", lambda o: pod(o).update(serviceAccountName="nobody")),
        "the account 'nobody'",
    ),
    "priority that is not there": (
        on("RayCluster", lambda o: pod(o).update(priorityClassName="urgent")),
        "the priority 'urgent'",
    ),
    "the same object twice": (
        lambda objects: objects.append(copy.deepcopy(pick(objects, "RayCluster"))),
        "stands there 2 times",
    ),
    "no DNS": (egress, "no policy lets DNS through"),
    "port of a policy": (
        on(
            "NetworkPolicy",
            lambda o: o["spec"].update(egress=[{"ports": [{"port": 99999}]}]),
            "submitter",
        ),
        "the port 99999",
    ),
    "network of a policy": (
        on(
            "NetworkPolicy",
            lambda o: o["spec"].update(egress=[{"to": [{"ipBlock": {"cidr": "10.0.0.0/40"}}]}]),
            "submitter",
        ),
        "'10.0.0.0/40'",
    ),
    "a label of any namespace": (
        on(
            "NetworkPolicy",
            lambda o: o["spec"]["ingress"].append(
                {"from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"a": "b"}}}]}
            ),
            "job-nodes",
        ),
        "trusts a label of any namespace",
    ),
    "everybody": (
        on(
            "NetworkPolicy",
            lambda o: o["spec"]["ingress"].append({"from": [{"namespaceSelector": {}}]}),
            "job-nodes",
        ),
        "lets everybody through",
    ),
    "access mode": (
        on("PersistentVolumeClaim", lambda o: o["spec"].update(accessModes=["ReadWriteSometimes"])),
        "'ReadWriteSometimes'",
    ),
    "size of a claim": (
        on(
            "PersistentVolumeClaim",
            lambda o: o["spec"]["resources"]["requests"].update(storage="much"),
        ),
        "storage: 'much'",
    ),
    "budget that blocks every drain": (
        on("PodDisruptionBudget", lambda o: o["spec"].update(minAvailable=2), "mlflow"),
        "minAvailable 2 of 2 Pods",
    ),
    "budget of nothing": (
        on(
            "PodDisruptionBudget",
            lambda o: o["spec"]["selector"].update(matchLabels={"a": "b"}),
            "mlflow",
        ),
        "selects no Pod",
    ),
    "schedule": (on("CronJob", lambda o: o["spec"].update(schedule="daily")), "schedule 'daily'"),
    "a Secret in a manifest": (
        lambda objects: objects.append(
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"a": "eA=="}}
        ),
        "Secret/s: holds a secret",
    ),
    "no object": (
        lambda objects: objects.append({"metadata": {"name": "x"}}),
        "no Kubernetes object",
    ),
}


def test_what_is_sound_has_no_problem():
    assert find_problems(sound(), accepts) == []


def test_there_are_at_least_forty_mistakes():
    assert len(MISTAKES) >= 40


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_is_refused_in_one_line(mistake: str):
    plant, expected = MISTAKES[mistake]
    objects = copy.deepcopy(sound())
    plant(objects)
    problems = find_problems(objects, accepts)
    told = [problem for problem in problems if expected in problem]
    assert told, problems
    assert not [problem for problem in problems if "\n" in problem]
    with pytest.raises(ConfigError, match="nothing was applied: "):
        require_sound(objects, accepts)
