"""All ways side by side: accuracy, paired differences, what each cost."""

import pytest

from sonoray.metrics import Bootstrap
from sonoray_jobs.evaluation.roles.consult_report import (
    Outcome,
    Way,
    accuracy_table,
    cost_table,
    judge,
    told,
)
from sonoray_jobs.evaluation.roles.consultation import Verdict


def outcome(number: int, truth: str, one: str, drawn: str, roles: str) -> Outcome:
    return Outcome(
        study_id=f"s{number}",
        patient_key=f"p{number}",
        topic="margin",
        truth=truth,
        options=("yes", "no"),
        verdict=Verdict(
            answer=roles,
            options={},
            ended="agreed" if number else "budget",
            rounds=1,
            team=("breast",),
            votes=((3, 5),) if number else (),
        ),
        ways={
            "one": Way(answer=one, calls=1, tokens=10, seconds=0.1),
            "self-consistency": Way(answer=drawn, calls=12, tokens=120, seconds=1, num_unread=2),
            "roles": Way(answer=roles, calls=12, tokens=200 + number, seconds=2),
        },
    )


OUTCOMES = [
    outcome(0, "yes", "yes", "", "no"),
    outcome(1, "yes", "no", "yes", "yes"),
    outcome(2, "no", "no", "no", "no"),
    outcome(3, "no", "yes", "no", "no"),
]


def test_right_answers_are_counted_and_held_side_by_side():
    values = judge(OUTCOMES, {"margin": ["yes"]}, Bootstrap(num_resamples=1000))
    whole = values["all"]
    assert whole == values["topics"]["margin"]
    assert whole["accuracy"] == {"one": 0.5, "self-consistency": 0.75, "roles": 0.75}
    assert whole["constant"] == 0.5
    one = whole["differences"]["one"]
    assert (one["value"], one["num_mended"], one["num_broken"]) == (0.25, 2, 1)
    assert one["low"] <= 0.25 <= one["high"]
    assert values["ended"] == {"budget": 1, "agreed": 3}
    assert values["votes"] == [9, 15]
    costs = values["costs"]
    assert (costs["one"]["calls"], costs["roles"]["calls"]) == (1, 12)
    assert (costs["roles"]["tokens"], costs["roles"]["most_tokens"]) == (201.5, 203)
    assert costs["self-consistency"]["num_unread"] == 8
    assert accuracy_table(values).rows[-1][3:6] == ("0.500", "0.750", "0.750")
    assert cost_table(values).rows[2][:3] == ("roles", "12.0", "12")
    lines = "\n".join(told(values))
    assert "votes: 9 of 15 agree" in lines
    assert "roles beside one: 2 answers right that were wrong, 1 wrong that were right" in lines


@pytest.mark.parametrize("against", [(), ("one",)])
def test_roles_may_stand_beside_less(against):
    ways = (*against, "roles")
    few = [
        Outcome(
            **{
                name: getattr(each, name) for name in Outcome.__dataclass_fields__ if name != "ways"
            },
            ways={way: each.ways[way] for way in ways},
        )
        for each in OUTCOMES
    ]
    values = judge(few, {}, Bootstrap(num_resamples=1000))
    assert list(values["all"]["accuracy"]) == list(ways)
    assert list(values["all"]["differences"]) == list(against)
    assert len(accuracy_table(values).header) == 3 + len(ways) + len(against)
