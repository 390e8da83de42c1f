"""Run a subcommand on a remote cluster through Ray's job submission API.

The entrypoint is `python -m sonoray_jobs.cli JOB ...`, which works in any directory of an image
that has the wheel; inside the job Ray sets RAY_ADDRESS, so the job joins the cluster that it runs
on. Logs are followed over a web socket, and the command ends with the exit status of its job: 2 is
the user's mistake there as well as here. A job that was stopped or killed has none; that is 1.
Interrupting the client leaves the job alone: a training outlives the laptop that started it.

The API listens at the dashboard's port (8265). Before Ray's client, which has no timeout, a plain
request checks within seconds that something answers there and takes the token.
"""

import asyncio
import logging
import os
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from sonoray.cluster.session import dev_runtime_env
from sonoray.cluster.token import use_configured_token
from sonoray.errors import ClusterError, ConfigError, JobFailedError
from sonoray_jobs.cluster.job_status import LogReader

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0
POLL_INTERVAL_S = 0.5
AGENT_PORT = 52365
"""Where a node's dashboard agent listens by default."""
DRIVER = "driver"
"""Resource of workers that may carry the own process of a job, as those on Kubernetes do."""
_ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """A job on a cluster."""

    submission_id: str
    address: str

    @property
    def advice(self) -> str:
        """How to follow and to stop the job."""
        job = f"--address {self.address} {self.submission_id}"
        return f"follow it with: ray job logs --follow {job}; stop it with: ray job stop {job}"

    def lines(self) -> list[str]:
        """What a person, or a shell, takes up."""
        return [self.submission_id]

    def to_json(self) -> dict[str, str]:
        """What a script reads."""
        return asdict(self)


def run(
    job: str,
    arguments: Sequence[str],
    *,
    address: str | None,
    wait: bool,
    dev: bool,
    on_worker: bool,
    write: Callable[[str], None],
) -> Submission:
    """Submit a subcommand and, with `wait`, stream its logs until it ends well.

    Args:
        job: name of the subcommand.
        arguments: its own arguments.
        address: URL of the cluster's dashboard.
        wait: follow the job to its end.
        dev: ship the four packages as they lie here over those installed there.
        on_worker: run the job's own process where the resource `driver` is, not on the head.
        write: takes pieces of the job's log, as they come.

    Raises:
        ConfigError: there is no address.
        ClusterError: nothing usable answers there, or the connection was lost.
        JobFailedError: the job failed or was stopped; it carries the job's own exit code.
    """
    if not address:
        raise ConfigError("submit needs the cluster's dashboard; add --address http://HOST:8265")
    client = _connect(address.rstrip("/"))
    submission = Submission(
        submission_id=_submit(client, [job, *arguments], dev=dev, on_worker=on_worker),
        address=address.rstrip("/"),
    )
    announcement = f"submitted {job} as {submission.submission_id}"
    try:
        if wait:
            log = LogReader(write)
            asyncio.run(_follow(client, submission, announcement, log))
            _await_end(client, submission, log)
        else:
            logger.info(announcement)
    except KeyboardInterrupt:
        logger.info("%s goes on; %s", submission.submission_id, submission.advice)
        raise
    return submission


def _connect(address: str) -> "JobSubmissionClient":
    """Open the client once something answers that takes our token."""
    if not address.startswith(("http://", "https://")):
        raise ClusterError(
            f"--address {address!r} is not the URL of a dashboard; write it like http://HOST:8265"
        )
    use_configured_token()
    import requests
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        answer = requests.get(f"{address}/api/version", timeout=CONNECT_TIMEOUT_S)
    except requests.RequestException as error:
        raise ClusterError(
            f"no Ray dashboard answers at {address!r} ({type(error).__name__}); check --address "
            "and that the cluster's port 8265 is reachable from here"
        ) from None
    if answer.status_code == requests.codes.not_found:
        raise ClusterError(f"no Ray dashboard at {address!r}: what answers there is something else")
    try:
        with _named(address):
            return JobSubmissionClient(address)
    except AuthenticationError:
        raise ClusterError(
            f"the Ray cluster at {address!r} refuses the token; set RAY_AUTH_MODE=token and "
            "RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH, to the cluster's own"
        ) from None
    except (RuntimeError, ConnectionError, ValueError, requests.RequestException) as error:
        raise ClusterError(f"the Ray cluster at {address!r} cannot be used: {error}") from None


@contextmanager
def _named(address: str) -> Iterator[None]:
    """Let `address` count: Ray's client takes RAY_ADDRESS before what it is given."""
    before = os.environ.get(_ADDRESS_VARIABLE)
    os.environ[_ADDRESS_VARIABLE] = address
    try:
        yield
    finally:
        if before is None:
            del os.environ[_ADDRESS_VARIABLE]
        else:
            os.environ[_ADDRESS_VARIABLE] = before


def _submit(
    client: "JobSubmissionClient", arguments: Sequence[str], *, dev: bool, on_worker: bool
) -> str:
    try:
        return client.submit_job(
            entrypoint=shlex.join(["python", "-m", "sonoray_jobs.cli", *arguments]),
            runtime_env=dev_runtime_env() if dev else {},
            entrypoint_resources={DRIVER: 1} if on_worker else None,
        )
    except (RuntimeError, OSError) as error:  # e.g. a head that has just started
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        fix = "look whether it runs with: ray job list; then try again"
        if "agent" in reason:  # the dashboard hands a job to the agent of a node
            fix = (
                f"the dashboard reaches no node's agent: free the agent's ports there "
                f"({AGENT_PORT}, or what ray start got as --dashboard-agent-listen-port and "
                "--dashboard-agent-grpc-port), or wait until a cluster that has just started has "
                "one; then try again"
            )
        raise ClusterError(f"the cluster did not take the job ({reason}); {fix}") from None


async def _follow(
    client: "JobSubmissionClient",
    submission: Submission,
    announcement: str,
    write: Callable[[str], None],
) -> None:
    """Announce the job and write its log as it grows, until the job ends.

    The announcement comes from in here because Ctrl-C invites itself once it is read: an interrupt
    ends a running event loop cleanly, one that is being built with a traceback from its destructor.
    """
    import aiohttp

    logger.info(announcement)
    try:
        async for text in client.tail_job_logs(submission.submission_id):
            write(text)
    except (RuntimeError, OSError, aiohttp.ClientError) as error:
        raise ClusterError(
            f"lost the connection to job {submission.submission_id} ({error}), which goes on; "
            f"{submission.advice}"
        ) from None


def _await_end(client: "JobSubmissionClient", submission: Submission, log: LogReader) -> None:
    """Wait for the final status, which comes a moment after the last line of the log."""
    while not (info := client.get_job_info(submission.submission_id)).status.is_terminal():
        time.sleep(POLL_INTERVAL_S)
    if info.status != "SUCCEEDED":
        code, reason = log.ending(info.driver_exit_code, info.message or "")
        failure = JobFailedError(
            f"job {submission.submission_id} ended as {info.status}: {reason}; see its log above"
        )
        failure.exit_code = code
        raise failure
