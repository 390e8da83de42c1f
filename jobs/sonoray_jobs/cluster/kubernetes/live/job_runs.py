"""RayJobs from the command line: start one, follow its log to its exit status, find it again.

Nothing depends on the laptop: the job and the Pod that prints its log run on the cluster. The log
is read from that Pod, again from where it broke off when a connection ends; `sonoray k8s logs`
finds it later. A job that fails ends the waiting at once, with the job's own exit status: 2 is the
user's mistake there as well as here.
"""

import logging
import re
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sonoray.errors import ClusterError, JobFailedError
from sonoray_jobs.cluster.job_status import LogReader
from sonoray_jobs.cluster.kubernetes.live.api_server import POD, RAY_JOB, Api, ApiError
from sonoray_jobs.cluster.kubernetes.live.preflight import check_cluster
from sonoray_jobs.cluster.kubernetes.manifests.naming import Object
from sonoray_jobs.cluster.kubernetes.refusals.walk import inside

logger = logging.getLogger(__name__)

POLL_S = 2.0
STEP_LABEL = "sonoray.io/step"
_EXIT_CODE = re.compile(r"exit code (\d+)")
_SUBMITTER = re.compile(r"[\d-]{10} [\d:,]+\t(INFO|SUCC) (cli|sdk)\.py:\d+ -- ")
"""What Ray's submitter says of itself, with advice that holds inside the cluster alone."""
_ENDED = ("Complete", "Failed", "ValidationFailed")
_TIMED_OUT = 124


@dataclass(frozen=True, kw_only=True, slots=True)
class JobRun:
    """A RayJob that was started or found."""

    name: str
    namespace: str
    status: str = ""
    message: str = ""

    def lines(self) -> list[str]:
        """For a person."""
        return [f"{self.name}: {self.status}" if self.status else self.name]

    def to_json(self) -> dict[str, Any]:
        """For a script."""
        return asdict(self)


def named_run(job: Object, extra: Sequence[str]) -> Object:
    """A step's RayJob under a name of its own, with more arguments.

    Args:
        job: the step's RayJob.
        extra: arguments that are appended to its command.
    """
    step = job["metadata"]["name"]
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    spec = {**job["spec"]}
    if extra:
        spec["entrypoint"] = f"{spec['entrypoint']} {shlex.join(extra)}"
    labels = {**job["metadata"]["labels"], STEP_LABEL: step}
    return {
        **job,
        "metadata": {**job["metadata"], "name": f"{step}-{stamp}", "labels": labels},
        "spec": spec,
    }


def submit(
    api: Api, job: Object, objects: Sequence[Object], *, wait: bool, write: Callable[[str], None]
) -> JobRun:
    """Start a RayJob and, with `wait`, follow it to its end.

    Args:
        api: the cluster.
        job: as `named_run` makes it.
        objects: the site's other objects that it needs, such as its road; applied first.
        wait: print the log and end with the job.
        write: takes pieces of the log.

    Raises:
        ClusterError: the cluster cannot take it; nothing was applied.
        JobFailedError: it failed; carries its exit code.
    """
    namespace, name = job["metadata"]["namespace"], job["metadata"]["name"]
    check_cluster(api, [*objects, job], namespace)
    for each in objects:
        api.apply(each)
    api.create(job)
    run = JobRun(name=name, namespace=namespace)
    logger.info("started %s; find it again with: sonoray k8s logs %s", name, name)
    return follow(api, run, write) if wait else run


def find_run(api: Api, namespace: str, named: str) -> JobRun:
    """The RayJob of a name, or the newest of a step.

    Raises:
        ClusterError: there is none.
    """
    live = api.get(RAY_JOB, namespace, named)
    if live is None:
        runs = api.items(RAY_JOB, namespace, labelSelector=f"{STEP_LABEL}={named}")
        runs.sort(key=lambda each: str(each["metadata"]["creationTimestamp"]))
        if not runs:
            names = [each["metadata"]["name"] for each in api.items(RAY_JOB, namespace)]
            raise ClusterError(f"no job {named!r} here; there are: {', '.join(names) or 'none'}")
        live = runs[-1]
    return _run_of(live)


def follow(api: Api, run: JobRun, write: Callable[[str], None]) -> JobRun:
    """Print a job's log as it grows, and end as it ends.

    Raises:
        JobFailedError: it failed; carries its exit code.
    """
    said, since, pod, log = "", "", "", LogReader(write)
    while True:
        live = api.get(RAY_JOB, run.namespace, run.name)
        if live is None:
            raise ClusterError(f"{run.name} was deleted while it was followed")
        status = inside(live, "status")
        state = str(status.get("jobDeploymentStatus") or "Waiting for the operator")
        if state != said:
            logger.info("%s: %s", run.name, state)
            said = state
        now = _log_pod(api, run) or pod
        if now != pod:  # of the first attempt, or of another one
            log.begin()
        pod = now
        ended = state in _ENDED
        if pod:
            since = _read_log(api, run, pod, since, log, follow=not ended)
        if ended:
            return _end(_run_of(live), log)
        time.sleep(POLL_S)


def _log_pod(api: Api, run: JobRun) -> str:
    """The Pod that prints the job's log, once it has begun."""
    pods = api.items(POD, run.namespace, labelSelector=f"batch.kubernetes.io/job-name={run.name}")
    begun = [
        each
        for each in pods
        if inside(each, "status").get("phase") in ("Running", "Succeeded", "Failed")
    ]
    begun.sort(key=lambda each: str(each["metadata"]["creationTimestamp"]))
    return str(begun[-1]["metadata"]["name"]) if begun else ""


def _read_log(
    api: Api, run: JobRun, pod: str, since: str, write: Callable[[str], None], *, follow: bool
) -> str:
    """Print the lines that are new, and return the stamp of the last one."""
    import urllib3

    try:
        for line in api.log(run.namespace, pod, follow=follow, since=since):
            if line.stamp > since:  # the server also sends those of the same second
                since = line.stamp
                if not _SUBMITTER.match(line.text):
                    write(f"{line.text}\n")
    except urllib3.exceptions.HTTPError:  # quiet, or the line broke; the job goes on
        logger.debug("the log of %s is quiet", run.name)
    except ApiError as error:
        logger.debug("no log of %s yet: %s", run.name, error)
    return since


def _run_of(live: Object) -> JobRun:
    status = inside(live, "status")
    state = str(status.get("jobStatus") or status.get("jobDeploymentStatus") or "")
    if status.get("jobDeploymentStatus") in ("Failed", "ValidationFailed"):
        state = "FAILED"
    reason = [str(status.get(key) or "") for key in ("reason", "message")]
    return JobRun(
        name=live["metadata"]["name"],
        namespace=live["metadata"]["namespace"],
        status=state,
        message=" ".join(" ".join(filter(None, reason)).split()),
    )


def _end(run: JobRun, log: LogReader) -> JobRun:
    """Return a job that succeeded, and fail with one that did not."""
    if run.status == "SUCCEEDED":
        return run
    found = _EXIT_CODE.search(run.message)
    code, reason = log.ending(int(found[1]) if found else None, run.message)
    late = "it ran out of deadline_s; " if code == _TIMED_OUT else ""
    failure = JobFailedError(
        f"job {run.name} ended as {run.status}: {late}{reason}; its log: "
        f"sonoray k8s logs {run.name}"
    )
    failure.exit_code = code
    raise failure
