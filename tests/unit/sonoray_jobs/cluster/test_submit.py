import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import ray
from ray.dashboard.modules.job.pydantic_models import JobDetails, JobType
from ray.job_submission import JobStatus

from sonoray.errors import ClusterError, JobFailedError
from sonoray_jobs.cluster import submit
from sonoray_jobs.cluster.failures import find_failure
from sonoray_jobs.cluster.job_status import LogReader
from sonoray_jobs.cluster.submit import Submission, _await_end, run

SUBMISSION = Submission(submission_id="raysubmit_1", address="http://127.0.0.1:8265")


class Ended:
    """What a client says of a job, one status after another, up to its end."""

    def __init__(self, *statuses, code, message="exit code\nand the log"):
        self.left = list(statuses)
        self.code = code
        self.message = message

    def get_job_info(self, submission_id):
        assert submission_id == SUBMISSION.submission_id
        return JobDetails(
            type=JobType.SUBMISSION,
            entrypoint="python -m sonoray_jobs.cli embed",
            status=self.left.pop(0),
            message=self.message,
            driver_exit_code=self.code,
        )


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (JobStatus.FAILED, 2, 2),
        (JobStatus.FAILED, 1, 1),
        (JobStatus.FAILED, -9, 1),
        (JobStatus.FAILED, None, 1),
        (JobStatus.STOPPED, None, 1),
    ],
)
def test_a_job_that_failed_hands_its_own_exit_code_on(status, code, expected):
    with pytest.raises(JobFailedError, match=f"ended as {status}: exit code and the log") as caught:
        _await_end(Ended(status, code=code), SUBMISSION, LogReader(print))
    assert find_failure(caught.value).exit_code == expected


def test_a_job_is_waited_for_and_its_success_raises_nothing(monkeypatch):
    monkeypatch.setattr(submit, "POLL_INTERVAL_S", 0.0)
    client = Ended(JobStatus.PENDING, JobStatus.RUNNING, JobStatus.SUCCEEDED, code=0)
    _await_end(client, SUBMISSION, LogReader(print))
    assert client.left == []


def test_an_exit_code_that_ray_lost_is_that_of_the_log():
    log = LogReader(print)
    log("exit status 2\n")
    lost = Ended(JobStatus.FAILED, code=None, message="failed to get job supervisor.")
    with pytest.raises(JobFailedError, match="its command ended with exit status 2") as caught:
        _await_end(lost, SUBMISSION, log)
    assert find_failure(caught.value).exit_code == 2


class Refusing(BaseHTTPRequestHandler):
    """A dashboard whose agent is not ready: Ray answers with a traceback as text."""

    def do_GET(self):
        self.answer(200, json.dumps({"version": "4", "ray_version": ray.__version__}))

    def do_POST(self):
        self.answer(500, "Traceback (most recent call last):\nConnectionError: no agent")

    def answer(self, status, text):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args):
        pass


def test_a_cluster_that_does_not_take_the_job_gives_one_line(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # another cluster, where other jobs run
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(ClusterError, match=r"did not take the job .*no agent") as caught:
            run(
                "doctor",
                [],
                address=f"http://127.0.0.1:{server.server_port}",
                wait=False,
                dev=False,
                on_worker=False,
                write=print,
            )
    finally:
        server.shutdown()
        server.server_close()
    assert len(str(caught.value).splitlines()) == 1
    assert "(52365, or what ray start got as --dashboard-agent-listen-port" in str(caught.value)
    assert f"({submit.AGENT_PORT}," in str(caught.value)


def test_the_agents_port_is_rays():
    assert ray._private.ray_constants.DEFAULT_DASHBOARD_AGENT_LISTEN_PORT == submit.AGENT_PORT
