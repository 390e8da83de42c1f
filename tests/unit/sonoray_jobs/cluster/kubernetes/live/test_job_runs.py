"""What a job's status means, and how a run of a step is made."""

import pytest

from sonoray.errors import JobFailedError
from sonoray_jobs.cluster.job_status import LogReader
from sonoray_jobs.cluster.kubernetes.live.api_server import LogLine
from sonoray_jobs.cluster.kubernetes.live.job_runs import (
    JobRun,
    _end,
    _read_log,
    _run_of,
    named_run,
)
from sonoray_jobs.cluster.kubernetes.render_site import render
from sonoray_jobs.cluster.kubernetes.site import load_site


def test_a_failed_job_carries_its_status_and_says_how_to_find_its_log():
    run = JobRun(name="train-1", namespace="n", status="FAILED", message="failed with exit code 2")
    told = r"train-1 ended as FAILED: failed with exit code 2; its log: sonoray k8s logs train-1"
    with pytest.raises(JobFailedError, match=told) as ended:
        _end(run, LogReader(print))
    assert ended.value.exit_code == 2
    late = JobRun(name="t", namespace="n", status="FAILED", message="exit code 124")
    with pytest.raises(JobFailedError, match="it ran out of deadline_s") as ended:
        _end(late, LogReader(print))
    assert ended.value.exit_code == 124
    done = JobRun(name="t", namespace="n", status="SUCCEEDED")
    assert _end(done, LogReader(print)).status == "SUCCEEDED"


def test_a_status_that_ray_lost_is_that_of_the_log():
    lost = JobRun(name="t", namespace="n", status="FAILED", message="failed to get job supervisor.")
    log = LogReader(print)
    with pytest.raises(JobFailedError, match="FAILED: failed to get job supervisor") as ended:
        _end(lost, log)
    assert ended.value.exit_code == 1
    log("error: no such training\nexit status 2\n")
    with pytest.raises(
        JobFailedError, match=r"its command ended with exit status 2 \(failed"
    ) as ended:
        _end(lost, log)
    assert ended.value.exit_code == 2


def test_a_deadline_leaves_no_job_status_and_is_a_failure():
    live = {
        "metadata": {"name": "t", "namespace": "n"},
        "status": {
            "jobDeploymentStatus": "Failed",
            "reason": "PreRunningDeadlineExceeded",
            "message": "no\nnode",
        },
    }
    run = _run_of(live)
    assert (run.status, run.message) == ("FAILED", "PreRunningDeadlineExceeded no node")


def test_a_run_has_a_name_of_its_own_and_quoted_arguments():
    job = render(*load_site("dev-cpu")).jobs["train"]
    run = named_run(job, ["--set", "train.variant=a b"])
    assert run["metadata"]["name"].startswith("train-2")
    assert run["metadata"]["labels"]["sonoray.io/step"] == "train"
    assert run["spec"]["entrypoint"] == f"{job['spec']['entrypoint']} --set 'train.variant=a b'"
    assert job["metadata"]["name"] == "train"
    assert len(run["metadata"]["name"]) <= 47


def test_the_submitters_advice_is_left_out_and_the_jobs_own_lines_are_not():
    class Logged:
        def log(self, *_: object, **__: object) -> list[LogLine]:
            texts = (
                "2026-11-30 03:49:33,654\tINFO cli.py:335 -- Query the status of the job:",
                "2026-11-30 03:52:08,666\tSUCC cli.py:66 -- --------------",
                "2026-11-30 03:52:08,605\tINFO sdk.py:520 -- WebSocket closed",
                "2026-11-30 03:52:08,605\tERR cli.py:66 -- Job 'x' failed",
                "embedded 17 images",
            )
            return [LogLine(stamp=str(number + 1), text=text) for number, text in enumerate(texts)]

    written: list[str] = []
    run = JobRun(name="embed-1", namespace="n")
    since = _read_log(Logged(), run, "pod", "", written.append, follow=False)  # type: ignore[arg-type]
    assert written == [
        "2026-11-30 03:52:08,605\tERR cli.py:66 -- Job 'x' failed\n",
        "embedded 17 images\n",
    ]
    assert since == "5"
