"""The road's steps as RayJobs, each on a cluster of its own, and steps that run on a schedule.

A job is tried once: a user's mistake fails on a second cluster as well. After a failure its workers
go and the head stays with the logs. Deadlines: nodes and images have `start_deadline_s`, and the
work has `deadline_s` from the command's own start (coreutils' `timeout`, exit status 124). The
deadline of KubeRay, which also counts the wait, only stands behind them. With a queue of Kueue a
job starts suspended, and its cluster goes soon after its end, a failed one too.
"""

import shlex

from sonoray_jobs.cluster.kubernetes.manifests.naming import CLUSTER, SCHEDULED, Object, metadata
from sonoray_jobs.cluster.kubernetes.manifests.pods import (
    ROAD_FOLDER,
    WORKSPACE_FOLDER,
    job_env,
    job_volumes,
    secret_volume,
    submitter_template,
)
from sonoray_jobs.cluster.kubernetes.manifests.ray_clusters import DRIVER, cluster_spec
from sonoray_jobs.cluster.kubernetes.site import Job, Site

KILL_AFTER_S = 120
"""Between SIGTERM at the deadline, on which a training saves, and SIGKILL."""
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"


def command_line(name: str, job: Job) -> list[str]:
    """The words that follow `sonoray`."""
    paths = ["--config", f"{ROAD_FOLDER}/road.toml", "--workspace", WORKSPACE_FOLDER]
    return [name, *job.arguments, *paths]


def ray_job(site: Site, name: str, road_map: str) -> Object:
    """One step of the road."""
    job = site.jobs[name]  # type: ignore[index]
    made = metadata(site, name, "job")
    words = ["python", "-m", "sonoray_jobs.cli", *command_line(name, job)]
    limit = ["timeout", "--signal=TERM", f"--kill-after={KILL_AFTER_S}", str(job.deadline_s)]
    spec: Object = {
        "entrypoint": shlex.join([*limit, *words]),
        "entrypointResources": DRIVER,
        "submissionMode": "K8sJobMode",
        "backoffLimit": job.retries,
        "preRunningDeadlineSeconds": job.start_deadline_s,
        "activeDeadlineSeconds": job.start_deadline_s + job.deadline_s + 2 * KILL_AFTER_S,
        "submitterConfig": {"backoffLimit": 2},
        **_remains(site),
        "rayClusterSpec": cluster_spec(
            site, "job", dict(job.workers), env=job_env(site), volumes=job_volumes(site, road_map)
        ),
        "submitterPodTemplate": submitter_template(site),
    }
    if site.queue.name:
        made["labels"][QUEUE_LABEL] = site.queue.name
        spec["suspend"] = True
    return {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": made, "spec": spec}


def _remains(site: Site) -> Object:
    keep = site.keep
    if site.queue.name:  # KubeRay suspends only what it shuts down by itself, and that has no rules
        return {"shutdownAfterJobFinishes": True, "ttlSecondsAfterFinished": keep.succeeded_s}

    def rule(policy: str, status: str, after_s: int, kind: str = "jobStatus") -> Object:
        return {"policy": policy, "condition": {kind: status, "ttlSeconds": after_s}}

    return {
        "shutdownAfterJobFinishes": False,
        "deletionStrategy": {
            "deletionRules": [
                rule("DeleteCluster", "SUCCEEDED", keep.succeeded_s),
                rule("DeleteSelf", "SUCCEEDED", keep.record_s),
                rule("DeleteWorkers", "FAILED", 0),
                rule("DeleteCluster", "FAILED", keep.failed_s),
                rule("DeleteSelf", "FAILED", keep.record_s),
                # a deadline that passed leaves no job status
                rule("DeleteWorkers", "Failed", 0, "jobDeploymentStatus"),
                rule("DeleteCluster", "Failed", keep.failed_s, "jobDeploymentStatus"),
                rule("DeleteSelf", "Failed", keep.record_s, "jobDeploymentStatus"),
            ]
        },
    }


def scheduled_steps(site: Site) -> Object:
    """A CronJob that submits steps to the standing cluster, one after the other."""
    template = submitter_template(site)
    [container] = template["spec"]["containers"]
    volume, mount = secret_volume(CLUSTER, "/etc/sonoray-token")
    template["spec"]["volumes"].append({"name": "token", **volume})
    address = f"http://{CLUSTER}-head-svc:8265"
    lines = []
    for step in site.schedule.steps:
        name, *arguments = command_line(step, site.jobs[step])
        submit = ["sonoray", "submit", name, "--address", address, "--on-worker", "--", *arguments]
        lines.append(shlex.join(submit))
    container |= {
        "name": "steps",
        "command": ["/bin/sh", "-ec"],
        "args": ["\n".join(lines)],
        "env": [
            {"name": "RAY_AUTH_MODE", "value": "token"},
            {"name": "RAY_AUTH_TOKEN_PATH", "value": "/etc/sonoray-token/auth_token"},
        ],
    }
    container["volumeMounts"].append({"name": "token", **mount})
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": metadata(site, SCHEDULED, "schedule"),
        "spec": {
            "schedule": site.schedule.cron,
            "timeZone": site.schedule.time_zone,
            "concurrencyPolicy": "Forbid",
            "startingDeadlineSeconds": 3600,
            "successfulJobsHistoryLimit": 3,
            "failedJobsHistoryLimit": 7,
            "jobTemplate": {
                "spec": {
                    "backoffLimit": 0,
                    "activeDeadlineSeconds": site.schedule.deadline_s,
                    "template": template,
                }
            },
        },
    }
