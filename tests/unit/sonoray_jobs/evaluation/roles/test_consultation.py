"""The loop with a tiny real model: what is asked in which order, and that no cap is ever passed."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sonoray.errors import ConfigError, ServingError
from sonoray_jobs.evaluation.roles.all_ways import read_trace, write_trace
from sonoray_jobs.evaluation.roles.alone import answer_once, vote
from sonoray_jobs.evaluation.roles.budget import Budget, check_caps
from sonoray_jobs.evaluation.roles.calls import Calls, Case, Step
from sonoray_jobs.evaluation.roles.consultation import Verdict, consult
from sonoray_jobs.evaluation.roles.memory import Memory
from sonoray_jobs.evaluation.roles.wordings import ROLES
from sonoray_jobs.road.consult_config import ConsultConfig

CONFIG = ConsultConfig(
    specialties=("breast", "liver", "kidney"), statement_tokens=4, discussion_chars=12
)
MEMORY = Memory(
    patients=np.array(["p0", "p1", "p2"], np.str_),
    reports=("own", "near", "far"),
    vectors=np.ones((3, 32), np.float32),
)
ALL_CALLS = 1 + 2 * (2 + 1 + 1 + 1 + 5) + 1 + 1
"""Team; two rounds of radiologist and two specialists, assistant, summary, votes; look; answer."""


def begin(service: Any, case: Case, max_calls: int = 99, max_tokens: int | None = None) -> Calls:
    return Calls(
        service=service,
        case=case,
        budget=Budget(max_calls=max_calls, max_tokens=max_tokens),
        max_tokens=CONFIG.statement_tokens,
        heat=CONFIG.temperature,
        seed=CONFIG.seed,
    )


def run(service: Any, case: Case, **caps: Any) -> tuple[Verdict, Calls]:
    calls = begin(service, case, **caps)
    return consult(calls, CONFIG, ROLES, MEMORY), calls


def test_roles_speak_in_their_order_and_the_director_has_the_last_word(service: Any, case: Case):
    verdict, calls = run(service, case)
    told = [(step.round, step.role, step.does) for step in calls.steps]
    assert told[0] == (0, "general-practitioner", "choose")
    team = list(verdict.team)
    assert len(team) == 2
    first = [each for each in told if each[0] == 1]
    assert [each[1:] for each in first[:6]] == [
        ("radiologist", "state"),
        (team[0], "state"),
        (team[1], "state"),
        ("assistant", "look"),
        ("assistant", "state"),
        ("director", "summarise"),
    ]
    voters = ["general-practitioner", "radiologist", "assistant", *team]
    assert [each[1] for each in first if each[2] == "vote"] == voters
    assert told[-1] == (verdict.rounds, "director", "answer")
    assert len(verdict.votes) == verdict.rounds
    assert verdict.answer in case.options
    assert set(verdict.options) == set(case.options)
    assert calls.budget.calls == len(calls.steps) == len(service.asked)
    assert calls.budget.tokens == sum(step.tokens for step in calls.steps)
    assert "near" in next(step.prompt for step in calls.steps if step.does == "state"
                          and step.role == "assistant")  # fmt: skip
    assert not any("own" in step.prompt for step in calls.steps)  # the patient's own report


def test_more_than_half_ends_it_and_less_goes_on(service: Any, case: Case):
    for wanted, rounds in (("同意", 1), ("不同意", 2)):
        said = service.choose

        def choose(
            prompt: str, pictures: Any, options: Any, wanted: str = wanted, said: Any = said
        ) -> Any:
            reply = said(prompt, pictures, options)
            return replace(reply, answer=wanted) if wanted in options else reply

        service.choose = choose
        verdict, _ = run(service, case)
        service.choose = said
        assert (verdict.rounds, verdict.ended) == (rounds, "agreed" if rounds == 1 else "rounds")
        assert verdict.votes == (((5, 5),) if rounds == 1 else ((0, 5), (0, 5)))


def test_equal_seeds_give_equal_traces(service: Any, case: Case):
    first, second = (run(service, case)[1].steps for _ in range(2))
    assert first == second
    other = begin(service, case)
    other.seed = 1
    consult(other, CONFIG, ROLES, MEMORY)
    assert [step.seed for step in other.steps] != [step.seed for step in first]


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    max_calls=st.integers(1, ALL_CALLS + 2),
    max_tokens=st.none() | st.integers(256, 4_000),
    roles=st.sets(st.sampled_from(ROLES)),
    options=st.booleans(),
)
def test_no_cap_is_ever_passed_and_there_always_is_an_answer(
    service: Any,
    case: Case,
    max_calls: int,
    max_tokens: int | None,
    roles: set[str],
    options: bool,
):
    asked = case if options else replace(case, options=())
    calls = begin(service, asked, max_calls, max_tokens)
    before = len(service.asked)
    verdict = consult(calls, CONFIG, tuple(sorted(roles)), MEMORY)
    assert len(service.asked) - before == calls.budget.calls <= max_calls
    assert max_tokens is None or calls.budget.tokens <= max_tokens
    assert calls.steps[-1].does == "answer"
    assert (verdict.answer in case.options) or not options
    if max_calls > ALL_CALLS and max_tokens is None:
        assert verdict.ended != "budget"
    drawn = begin(service, case, max_calls, max_tokens)
    vote(drawn, max_calls + 1)
    assert drawn.budget.calls <= max_calls
    assert max_tokens is None or drawn.budget.tokens <= max_tokens


def test_with_one_call_the_director_answers_as_the_model_alone(service: Any, case: Case):
    verdict, calls = run(service, case, max_calls=1)
    alone = begin(service, case)
    assert verdict.answer == answer_once(alone)
    assert [step.prompt for step in calls.steps] == [case.question]
    assert (verdict.ended, verdict.rounds) == ("budget", 0)


def test_a_service_that_counts_more_than_it_can_have_is_refused(service: Any, case: Case):
    said = service.choose
    service.choose = lambda *given: replace(said(*given), prompt_tokens=10**6)
    with pytest.raises(
        ServingError, match=r"counts 10000\d\d tokens for one call, more than it can"
    ):
        run(service, case, max_tokens=5_000)


@pytest.mark.parametrize(
    ("calls", "tokens", "why"),
    [
        (0, None, "--max-calls 0 leaves no call; give at least 1"),
        (-3, None, "--max-calls -3 leaves no call"),
        (9, 255, "--max-tokens 255 is less than the 256 tokens that one call"),
    ],
)
def test_caps_that_leave_no_call_are_refused(calls: int, tokens: int | None, why: str):
    with pytest.raises(ConfigError, match=why):
        check_caps(calls, tokens, 256)
    check_caps(1, 256, 256)


def test_a_trace_is_read_again_whatever_line_breaks_its_texts_hold(tmp_path):
    step = Step(
        call=1, round=0, role="radiologist", does="look", prompt="?", prompt_sha256="",
        answer="低回声\u2028\x85", seed=None, tokens=1, total_tokens=1,
    )  # fmt: skip
    write_trace(tmp_path, [("study", "roles", step)] * 2)
    first, second = read_trace(tmp_path)
    assert first == second == {"subject": "study", "way": "roles", **step.to_json()}
