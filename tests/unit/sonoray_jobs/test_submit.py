import pytest
from ray.dashboard.modules.job.pydantic_models import JobDetails, JobType
from ray.job_submission import JobStatus

from sonoray.errors import JobFailedError
from sonoray_jobs.failures import find_failure
from sonoray_jobs.submit import Submission, _await_end

SUBMISSION = Submission(submission_id="raysubmit_1", address="http://127.0.0.1:8265")


class Ended:
    """What a client says of a job that has ended."""

    def __init__(self, status, code):
        self.info = JobDetails(
            type=JobType.SUBMISSION,
            entrypoint="python -m sonoray_jobs.cli embed",
            status=status,
            message="exit code\nand the log",
            driver_exit_code=code,
        )

    def get_job_info(self, submission_id):
        assert submission_id == SUBMISSION.submission_id
        return self.info


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
        _await_end(Ended(status, code), SUBMISSION)
    assert find_failure(caught.value).exit_code == expected


def test_a_job_that_succeeded_raises_nothing():
    _await_end(Ended(JobStatus.SUCCEEDED, 0), SUBMISSION)
