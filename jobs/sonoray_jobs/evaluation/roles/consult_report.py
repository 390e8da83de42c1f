"""A consultation beside the same model alone: right answers, and what each way cost."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sonoray.metrics import (
    ALL_CLOSED,
    AnswerRecord,
    Bootstrap,
    compare_all_closed,
)
from sonoray.metrics.answers import most_frequent
from sonoray.metrics.paired import Difference
from sonoray.metrics.tables import Table
from sonoray_jobs.evaluation.roles.consultation import Verdict

ONE, SELF_CONSISTENCY, ROLES = "one", "self-consistency", "roles"

AGAINST = (ONE, SELF_CONSISTENCY)
"""What roles can be held against."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """How one way answered a question."""

    answer: str
    calls: int
    tokens: int
    seconds: float
    num_unread: int = 0
    """Drawn answers that are no option."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """One closed question, answered in all ways."""

    study_id: str
    patient_key: str
    topic: str
    truth: str
    options: tuple[str, ...]
    verdict: Verdict
    ways: Mapping[str, Way]

    def record(self, way: str) -> AnswerRecord:
        """The answer of one way, as metrics take it."""
        return AnswerRecord(
            study_id=self.study_id,
            patient_key=self.patient_key,
            topic=self.topic,
            truth=self.truth,
            answer=self.ways[way].answer,
            options=self.options,
        )


def judge(
    outcomes: Sequence[Outcome], learned: Mapping[str, Sequence[str]], bootstrap: Bootstrap
) -> dict[str, Any]:
    """Judge all ways; differences are roles minus the other way, paired.

    Args:
        outcomes: at least one.
        learned: by topic the training answers, the commonest of which is the constant one.
        bootstrap: how intervals over patients are made.
    """
    ways = list(outcomes[0].ways)
    records = {way: [each.record(way) for each in outcomes] for way in ways}
    topics = dict.fromkeys(each.topic for each in outcomes)
    verdicts = [each.verdict for each in outcomes]
    return {
        "num_questions": len(outcomes),
        "num_patients": len({each.patient_key for each in outcomes}),
        "topics": {
            topic: _accuracies({way: _of(topic, records[way]) for way in ways}, learned, bootstrap)
            for topic in topics
        },
        "all": _accuracies(records, learned, bootstrap),
        "costs": {way: _costs([each.ways[way] for each in outcomes]) for way in ways},
        "rounds": sum(each.rounds for each in verdicts) / len(verdicts),
        "ended": dict(Counter(each.ended for each in verdicts)),
        "votes": [sum(found) for found in zip(*_votes(verdicts), strict=True)],
        "team": dict(Counter(field for each in verdicts for field in each.team)),
    }


def _of(topic: str, records: Sequence[AnswerRecord]) -> list[AnswerRecord]:
    return [record for record in records if record.topic == topic]


def _votes(verdicts: Sequence[Verdict]) -> list[tuple[int, int]]:
    return [votes for each in verdicts for votes in each.votes] or [(0, 0)]


def _accuracies(
    records: Mapping[str, Sequence[AnswerRecord]],
    learned: Mapping[str, Sequence[str]],
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    """Accuracy of each way, and the paired differences."""
    own = records[ROLES]
    constant = [most_frequent(learned.get(record.topic, ())) for record in own]
    found: dict[str, Any] = {
        "num_questions": len(own),
        "constant": sum(map(_is, own, constant)) / len(own),
        "accuracy": {},
        "differences": {},
    }
    for way, side in records.items():
        compared = compare_all_closed(side, own, bootstrap=bootstrap)
        assert compared is not None  # all questions are closed
        difference = compared.differences["accuracy"]
        found["accuracy"][way] = difference.first
        if way != ROLES:
            found["differences"][way] = asdict(difference) | {
                "num_mended": compared.mcnemar.only_second,
                "num_broken": compared.mcnemar.only_first,
                "num_different": compared.num_different,
            }
    return found


def _is(record: AnswerRecord, answer: str | None) -> bool:
    return record.truth == answer


def _costs(ways: Sequence[Way]) -> dict[str, float]:
    number = len(ways)
    return {
        "calls": sum(each.calls for each in ways) / number,
        "most_calls": max(each.calls for each in ways),
        "tokens": sum(each.tokens for each in ways) / number,
        "most_tokens": max(each.tokens for each in ways),
        "seconds": sum(each.seconds for each in ways) / number,
        "num_unread": sum(each.num_unread for each in ways),
    }


def accuracy_table(values: Mapping[str, Any]) -> Table:
    """One row per topic, and one of all."""
    ways = list(values["costs"])
    against = [way for way in ways if way != ROLES]
    rows = [*values["topics"].items(), (ALL_CLOSED, values["all"])]
    return Table(
        header=(
            "topic",
            "questions",
            "constant",
            *ways,
            *(f"roles minus {way}" for way in against),
        ),
        rows=tuple(
            (
                topic,
                str(each["num_questions"]),
                f"{each['constant']:.3f}",
                *(f"{each['accuracy'][way]:.3f}" for way in ways),
                *(_signed(each["differences"][way]) for way in against),
            )
            for topic, each in rows
        ),
    )


def cost_table(values: Mapping[str, Any]) -> Table:
    """What each way cost a question."""
    return Table(
        header=("way", "calls a question", "most", "tokens", "most", "seconds", "unread answers"),
        rows=tuple(
            (
                way,
                f"{each['calls']:.1f}",
                str(each["most_calls"]),
                f"{each['tokens']:.0f}",
                str(each["most_tokens"]),
                f"{each['seconds']:.2f}",
                str(each["num_unread"]),
            )
            for way, each in values["costs"].items()
        ),
    )


def told(values: Mapping[str, Any]) -> list[str]:
    """What a person reads of a report."""
    whole = values["all"]
    yes, voted = values["votes"]
    lines = [
        f"{values['num_questions']} closed questions, {values['num_patients']} patients; 95 % "
        "intervals over patients, paired",
        *accuracy_table(values).text(),
        *cost_table(values).text(),
        f"{values['rounds']:.2f} rounds a question; ended: "
        + ", ".join(f"{why} {count}" for why, count in values["ended"].items()),
        f"votes: {yes} of {voted} agree",
    ]
    if values["team"]:
        asked = sorted(values["team"].items(), key=lambda item: -item[1])
        lines.append("specialists: " + ", ".join(f"{field} {count}" for field, count in asked))
    lines += [
        f"roles beside {way}: {each['num_mended']} answers right that were wrong, "
        f"{each['num_broken']} wrong that were right"
        for way, each in whole["differences"].items()
    ]
    return lines


def _signed(difference: Mapping[str, Any]) -> str:
    names = ("first", "second", "value", "low", "high", "p_value")
    found = Difference(**{name: difference[name] for name in names})
    text = f"{found.value:+.3f}"
    return text if found.low is None else f"{text} [{found.low:+.3f}, {found.high:+.3f}]"
