"""What is refused in Ray's objects: sizes, modes, deadlines, versions, deletion."""

import re
from collections.abc import Iterator
from typing import Any

from sonoray_jobs.cluster.kubernetes.manifests.naming import Object
from sonoray_jobs.cluster.kubernetes.refusals.walk import cluster_of, entries, groups_of, inside
from sonoray_jobs.cluster.kubernetes.site import ray_version

NAME_LENGTHS = {"RayCluster": 53, "RayJob": 47, "RayService": 47}
"""KubeRay's longest names: it appends to them."""
_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_IMAGE_RAY = re.compile(r"ray(\d+\.\d+\.\d+)")
_SUBMISSION = ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
_UPGRADES = {
    "RayCluster": ("Recreate", "None"),
    "RayService": ("NewCluster", "NewClusterWithIncrementalUpgrade", "None"),
}
_DELETIONS = ("DeleteWorkers", "DeleteCluster", "DeleteSelf", "DeleteNone")
_NEGATIVE = {
    "RayJob": (
        "backoffLimit",
        "activeDeadlineSeconds",
        "preRunningDeadlineSeconds",
        "ttlSecondsAfterFinished",
    ),
    "RayService": ("rayClusterDeletionDelaySeconds",),
}


def check_ray(made: Object) -> Iterator[str]:
    """Say what is wrong with one of Ray's objects."""
    kind = made.get("kind", "")
    cluster = cluster_of(made)
    if cluster is None:
        return
    name = str(inside(made, "metadata").get("name") or "")
    longest = NAME_LENGTHS.get(kind, 47)
    if len(name) > longest or not _NAME.fullmatch(name):
        yield f"name of {len(name)} characters; at most {longest} of a-z, 0-9 and -, as in train-2"
    spec = inside(made, "spec")
    strategy = inside(spec, "upgradeStrategy").get("type")
    if strategy is not None and strategy not in _UPGRADES.get(kind, ()):
        known = ", ".join(_UPGRADES.get(kind, ())) or "none here"
        yield f"upgradeStrategy.type {strategy!r}; choose one of {known}"
    for field in _NEGATIVE.get(kind, ()):
        value = spec.get(field)
        if value is not None and (not isinstance(value, int) or value < 0):
            yield f"{field} {value!r}; give a number of 0 or more"
    yield from _cluster(cluster)
    if kind == "RayJob":
        yield from _job(spec, cluster)
    if kind == "RayService" and strategy == "NewClusterWithIncrementalUpgrade":
        if not cluster.get("enableInTreeAutoscaling"):
            yield "upgrades in steps need the autoscaler; set enableInTreeAutoscaling: true"
        if not inside(spec, "upgradeStrategy", "clusterUpgradeOptions").get("gatewayClassName"):
            yield "upgrades in steps need clusterUpgradeOptions.gatewayClassName; name one"


def _cluster(cluster: Object) -> Iterator[str]:
    version = str(cluster.get("rayVersion") or "")
    if version != ray_version():
        yield f"rayVersion {version!r}, and the image holds Ray {ray_version()}; write that"
    mode = inside(cluster, "authOptions").get("mode")
    if mode != "token":
        yield f"authOptions.mode {mode!r}: whoever reaches the dashboard runs code; set token"
    if inside(cluster, "tlsOptions").get("enabled"):
        yield "tlsOptions needs an alpha gate of the operator and cert-manager; remove it"
    head = inside(cluster, "headGroupSpec")
    if inside(head, "rayStartParams").get("num-cpus") != "0":
        yield 'the head takes work; set headGroupSpec.rayStartParams.num-cpus: "0"'
    images = {
        str(container.get("image"))
        for group in (head, *groups_of(cluster))
        for container in entries(inside(group, "template", "spec").get("containers"))
    }
    if len(images) > 1:
        yield f"head and workers have the images {', '.join(sorted(images))}; give one"
    for image in sorted(images):
        found = _IMAGE_RAY.search(image)
        if found and found[1] != version:
            yield f"image {image!r} holds Ray {found[1]}, rayVersion is {version!r}; give one"
    scales = bool(cluster.get("enableInTreeAutoscaling"))
    names = [group.get("groupName") for group in groups_of(cluster)]
    if not names:
        yield "has no worker group, and the head takes no work; add one"
    for name in sorted({str(name) for name in names if names.count(name) > 1}):
        yield f"two groups are called {name!r}; rename one"
    for group in groups_of(cluster):
        for problem in _group(group, scales=scales):
            yield f"group {group.get('groupName')!r} {problem}"
    fault = cluster.get("gcsFaultToleranceOptions")
    if isinstance(fault, dict):
        if fault.get("backend", "redis") == "redis" and not fault.get("redisAddress"):
            yield "gcsFaultToleranceOptions without redisAddress; name the Redis"
        if inside(fault, "redisPassword").get("value"):
            yield "gcsFaultToleranceOptions holds a password; take it from a Secret"
    if scales:
        account = inside(head, "template", "spec").get("serviceAccountName")
        mounts = entries(inside(cluster, "autoscalerOptions").get("volumeMounts"))
        if not any("serviceaccount" in str(mount.get("mountPath")) for mount in mounts):
            yield f"its autoscaler has no token of {account!r}; mount one into it"


def _group(group: Object, *, scales: bool) -> Iterator[str]:
    numbers = {key: group.get(key) for key in ("replicas", "minReplicas", "maxReplicas")}
    for key, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            yield f"{key} {value!r}; give a whole number of 0 or more"
            return
    replicas, least, most = (int(value or 0) for value in numbers.values())
    if least > most:
        yield f"minReplicas {least} exceeds maxReplicas {most}; lower it"
    elif not least <= replicas <= most:
        yield f"replicas {replicas} is not between {least} and {most}; change it"
    if not scales and most > replicas:
        yield f"maxReplicas {most} without an autoscaler; set enableInTreeAutoscaling"
    idle = group.get("idleTimeoutSeconds")
    if idle is not None and (not isinstance(idle, int) or idle < 0):
        yield f"idleTimeoutSeconds {idle!r}; give seconds"


def _job(spec: Object, cluster: Object) -> Iterator[str]:
    mode = spec.get("submissionMode", "K8sJobMode")
    if mode not in _SUBMISSION:
        yield f"submissionMode {mode!r}; choose one of {', '.join(_SUBMISSION)}"
    shuts = bool(spec.get("shutdownAfterJobFinishes"))
    if spec.get("ttlSecondsAfterFinished") and not shuts:
        yield "ttlSecondsAfterFinished without shutdownAfterJobFinishes does nothing; set it"
    if isinstance(retries := spec.get("backoffLimit"), int) and retries > 5:
        yield f"backoffLimit {retries}: a user's mistake fails on as many clusters; lower it"
    start, whole = spec.get("preRunningDeadlineSeconds"), spec.get("activeDeadlineSeconds")
    if isinstance(start, int) and isinstance(whole, int) and whole <= start:
        yield (
            f"activeDeadlineSeconds {whole} counts the wait of up to {start} s too; give it more"
        )
    yield from _deletion(spec, cluster, shuts=shuts)


def _deletion(spec: Object, cluster: Object, *, shuts: bool) -> Iterator[str]:
    rules = entries(inside(spec, "deletionStrategy").get("deletionRules"))
    if rules and shuts:
        yield "deletionRules and shutdownAfterJobFinishes exclude each other; remove one"
    if not rules and not shuts:
        yield "keeps its cluster for ever; set deletionStrategy or shutdownAfterJobFinishes"
    if spec.get("suspend") and not shuts:
        yield "starts suspended, which KubeRay refuses without shutdownAfterJobFinishes; set it"
    times: dict[Any, dict[str, int]] = {}
    for rule in rules:
        policy, condition = rule.get("policy"), inside(rule, "condition")
        if policy not in _DELETIONS:
            yield f"deletion policy {policy!r}; choose one of {', '.join(_DELETIONS)}"
            continue
        if policy == "DeleteWorkers" and cluster.get("enableInTreeAutoscaling"):
            yield "DeleteWorkers does not work with the autoscaler; delete the cluster"
        status = condition.get("jobStatus") or condition.get("jobDeploymentStatus")
        if status not in ("SUCCEEDED", "FAILED", "Failed"):
            yield f"deletion on the status {status!r}; SUCCEEDED, FAILED or Failed"
        times.setdefault(status, {})[policy] = int(condition.get("ttlSeconds") or 0)
    for status, by_policy in times.items():
        found = [by_policy[policy] for policy in _DELETIONS if policy in by_policy]
        if found != sorted(found):
            yield f"on {status} the RayJob goes before its cluster or workers; give it more time"
