"""Errors: fixed texts, OpenAI's shape, and containment of foreign messages."""

import logging
import pickle
import traceback

import pytest

from sonoray_serve.problems import ApiError, InternalError, Problem, contained

CANARY = "patient-name-canary"


@pytest.mark.parametrize("problem", Problem)
def test_every_error_has_a_shape_a_status_and_survives_pickling(problem: Problem):
    error = pickle.loads(pickle.dumps(ApiError(problem, "messages", 7)))
    body = error.body()["error"]
    assert set(body) == {"message", "type", "param", "code"}
    assert "{" not in body["message"]
    assert body["code"] == problem.name.lower()
    assert 400 <= problem.status <= 504
    assert error.problem is problem
    assert (error.param, error.limit) == ("messages", 7)


def test_limits_stand_in_the_text():
    body = ApiError(Problem.BODY_TOO_LARGE, limit=64_000_000).body()
    assert body["error"]["message"] == "The body is too large; at most 64,000,000 bytes."


def test_a_detail_stands_in_the_text_and_survives_pickling():
    error = ApiError(Problem.CONVERSATION_NOT_ACCEPTED, "messages", detail="no system role")
    body = pickle.loads(pickle.dumps(error)).body()
    expected = "The model does not take this conversation: no system role."
    assert body["error"]["message"] == expected


def test_foreign_exception_is_reduced_to_its_place(caplog: pytest.LogCaptureFixture):
    logger = logging.getLogger("sonoray_serve.test")
    with pytest.raises(InternalError) as failed, contained(logger):
        raise RuntimeError(f"cannot tokenise {CANARY}")
    assert str(failed.value).startswith("RuntimeError at test_problems.py:")
    assert f"cannot tokenise {CANARY}" not in "".join(traceback.format_exception(failed.value))
    assert "RuntimeError at test_problems.py" in caplog.text
    assert CANARY not in caplog.text
    assert str(pickle.loads(pickle.dumps(failed.value))) == str(failed.value)


@pytest.mark.parametrize("ours", [ApiError(Problem.BUSY), InternalError("x")])
def test_our_own_errors_pass(ours: Exception, caplog: pytest.LogCaptureFixture):
    with pytest.raises(type(ours)) as passed, contained(logging.getLogger("sonoray_serve.test")):
        raise ours
    assert passed.value is ours
    assert not caplog.records
