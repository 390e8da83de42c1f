"""What one key may take: requests a minute and at once, and that others are not touched."""

import pytest

from sonoray_serve.keys.key_limits import KeyLimits
from sonoray_serve.problems import ApiError, Problem
from sonoray_serve.settings import KeyTerms


class Clock:
    """Tells the time that a test says."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def refused(limits: KeyLimits, key: str, terms: KeyTerms | None = None) -> ApiError:
    with pytest.raises(ApiError) as caught:
        limits.enter(key, terms)
    return caught.value


def test_a_minute_s_requests_come_back_one_by_one(clock: Clock):
    limits = KeyLimits(per_minute=3, at_once=0, clock=clock)
    for _ in range(3):
        limits.enter("a", None)
    error = refused(limits, "a")
    assert (error.problem, error.limit, error.detail) == (Problem.KEY_PER_MINUTE, 3, "20")
    limits.enter("b", None)
    clock.now += 19.9
    assert refused(limits, "a").detail == "1"
    clock.now += 0.2
    limits.enter("a", None)
    assert refused(limits, "a").detail == "20"
    clock.now += 3_600
    for _ in range(3):  # never more than one minute's
        limits.enter("a", None)
    refused(limits, "a")


def test_requests_at_once_end_one_by_one(clock: Clock):
    limits = KeyLimits(per_minute=0, at_once=2, clock=clock)
    limits.enter("a", None)
    limits.enter("a", None)
    error = refused(limits, "a")
    assert (error.problem, error.limit) == (Problem.KEY_AT_ONCE, 2)
    limits.enter("b", None)
    limits.leave("a")
    limits.enter("a", None)


def test_a_refused_request_takes_nothing(clock: Clock):
    limits = KeyLimits(per_minute=2, at_once=1, clock=clock)
    limits.enter("a", None)
    for _ in range(5):
        refused(limits, "a")  # at once
    limits.leave("a")
    limits.enter("a", None)
    limits.leave("a")
    assert refused(limits, "a").problem is Problem.KEY_PER_MINUTE


def test_a_key_s_own_terms_count_more(clock: Clock):
    limits = KeyLimits(per_minute=1, at_once=1, clock=clock)
    own = KeyTerms(per_minute=5, at_once=2)
    limits.enter("a", own)
    limits.enter("a", own)
    assert refused(limits, "a", own).limit == 2
    limits.enter("b", KeyTerms())
    assert refused(limits, "b", KeyTerms()).limit == 1


def test_no_limit_is_none(clock: Clock):
    limits = KeyLimits(per_minute=0, at_once=0, clock=clock)
    for _ in range(1_000):
        limits.enter("a", None)
    assert refused(limits, "a", KeyTerms(at_once=1_000)).limit == 1_000  # they were all counted
