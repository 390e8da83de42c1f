"""Two sets of answers to the same questions: is one better, and how sure is that.

Every metric's difference is resampled with the same draws of patients for both sides, because what
is hard for one model is mostly hard for the other: two overlapping intervals say little, the
interval of the difference says it. The two-sided p value of a difference d is
`2 min(1 + #{d* <= 0}, 1 + #{d* >= 0}) / (1 + R)` over R draws, at most 1 (Davison and Hinkley,
Bootstrap Methods and their Application, 1997, sections 4.4 and 5.2): the interval at that level
would just reach 0. It never is less than 2 / (1 + R).

Accuracy also gets McNemar's exact test: of the questions that one side alone answers right, the
number that is the first side's is binomial with 1/2 where both are equally good. It takes questions
as independent, so with several of one patient the bootstrap's p value is the one to trust.

No p value here is corrected for the number of topics and metrics that are looked at.
"""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sonoray.errors import DataError
from sonoray.metrics.answers import AnswerRecord, check, topic_options
from sonoray.metrics.class_rates import accuracy_metric
from sonoray.metrics.closed import ALL_CLOSED, answer_metrics
from sonoray.metrics.resampling import Bootstrap, Floats, Metric, interval, resample
from sonoray.metrics.text import normalise, text_answer_metrics


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One metric on both sides, and second minus first."""

    first: float
    second: float
    value: float
    low: float | None
    """Lower end of the difference; None where no draw defines it."""
    high: float | None
    p_value: float | None
    """Two-sided, from the bootstrap; None where the interval is None."""
    num_undefined: int = 0
    """Draws that left the metric undefined on a side and were skipped."""


@dataclass(frozen=True, kw_only=True, slots=True)
class McNemar:
    """Questions that one side alone answers right, and the exact test on them."""

    only_first: int
    only_second: int
    p_value: float
    """Two-sided; 1 where there is no such question."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TopicComparison:
    """The two sides on one topic."""

    topic: str
    closed: bool
    num_questions: int
    num_patients: int
    differences: Mapping[str, Difference]
    """By metric, as named in `closed.answer_metrics` and `text.TEXT_METRICS`."""
    both_right: int
    """Questions answered right by both; for texts, right is an exact match."""
    mcnemar: McNemar
    num_different: int
    """Questions with two different answers, whether right or not."""

    @property
    def both_wrong(self) -> int:
        """Questions that neither answers right."""
        alone = self.mcnemar.only_first + self.mcnemar.only_second
        return self.num_questions - self.both_right - alone

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self) | {"both_wrong": self.both_wrong}


def compare_answers(
    first: Sequence[AnswerRecord],
    second: Sequence[AnswerRecord],
    *,
    positive: Mapping[str, str] | None = None,
    bootstrap: Bootstrap | None = None,
) -> list[TopicComparison]:
    """Compare two sets of answers, topic by topic, in the order in which topics appear.

    Args:
        first: answered questions.
        second: the same questions in the same order, answered by another model.
        positive: the positive option of topics, as in `closed_metrics`.
        bootstrap: how differences are resampled.

    Raises:
        DataError: the questions are not the same, or a record contradicts itself.
    """
    groups: defaultdict[tuple[str, bool], list[tuple[AnswerRecord, AnswerRecord]]]
    groups = defaultdict(list)
    if len(first) != len(second):
        raise DataError(
            f"{len(first)} answers cannot be paired with {len(second)}; compare two runs on the "
            "same split of the same dataset"
        )
    for one, other in zip(first, second, strict=True):
        if _question(one) != _question(other):
            raise DataError(
                f"the answers are not to the same questions: study {one.study_id!r}, topic "
                f"{one.topic!r} stands beside study {other.study_id!r}, topic {other.topic!r}"
            )
        if one.options:
            check(one)
            check(other)
        groups[one.topic, bool(one.options)].append((one, other))
    return [
        _compare_topic(
            topic,
            [one for one, _ in pairs],
            [other for _, other in pairs],
            (positive or {}).get(topic) if closed else None,
            bootstrap or Bootstrap(),
        )
        for (topic, closed), pairs in groups.items()
    ]


def compare_all_closed(
    first: Sequence[AnswerRecord],
    second: Sequence[AnswerRecord],
    *,
    bootstrap: Bootstrap | None = None,
) -> TopicComparison | None:
    """Compare the accuracy over the closed questions of all topics; None where there is none.

    Args:
        first: answered questions, as `compare_answers` takes them.
        second: the same questions in the same order, answered by another model.
        bootstrap: how the difference is resampled.
    """
    sides = [[record for record in side if record.options] for side in (first, second)]
    if not sides[0]:
        return None
    metrics = [{"accuracy": accuracy_metric(side)} for side in sides]
    return _comparison(ALL_CLOSED, sides[0], sides[1], metrics, bootstrap or Bootstrap())


def is_right(record: AnswerRecord) -> bool:
    """Whether the answer is the true option or, for a free text, the true text."""
    if record.options:
        return record.answer == record.truth
    return normalise(record.answer) == normalise(record.truth)


def paired_differences(
    first: Mapping[str, Metric],
    second: Mapping[str, Metric],
    patients: Sequence[Hashable],
    bootstrap: Bootstrap,
) -> dict[str, Difference]:
    """Return second minus first for each metric that both have and the whole sample defines."""
    names = [name for name in first if name in second]
    ones = np.ones((1, len(patients)))
    values = {name: (float(first[name](ones)[0]), float(second[name](ones)[0])) for name in names}
    names = [name for name in names if not np.isnan(values[name]).any()]
    draws = resample(
        {name: _difference(first[name], second[name]) for name in names}, patients, bootstrap
    )
    found = {}
    for name in names:
        one, other = values[name]
        low, high = interval(draws[name], bootstrap.confidence)
        found[name] = Difference(
            first=one,
            second=other,
            value=other - one,
            low=low,
            high=high,
            p_value=two_sided_p(draws[name]),
            num_undefined=int(np.isnan(draws[name]).sum()),
        )
    return found


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> McNemar:
    """Test whether two models answer right equally often.

    Args:
        first: for each question whether the first model is right.
        second: the same of the second model.
    """
    from scipy.stats import binomtest

    only_first = sum(one and not other for one, other in zip(first, second, strict=True))
    only_second = sum(other and not one for one, other in zip(first, second, strict=True))
    apart = only_first + only_second
    p_value = float(binomtest(only_first, apart, 0.5).pvalue) if apart else 1.0
    return McNemar(only_first=only_first, only_second=only_second, p_value=p_value)


def _compare_topic(
    topic: str,
    first: list[AnswerRecord],
    second: list[AnswerRecord],
    positive: str | None,
    bootstrap: Bootstrap,
) -> TopicComparison:
    closed = bool(first[0].options)
    if closed:
        options = topic_options(topic, first, positive)
        metrics = [answer_metrics(side, options, positive) for side in (first, second)]
    else:
        metrics = [text_answer_metrics(side) for side in (first, second)]
    return _comparison(topic, first, second, metrics, bootstrap)


def _comparison(
    topic: str,
    first: list[AnswerRecord],
    second: list[AnswerRecord],
    metrics: Sequence[Mapping[str, Metric]],
    bootstrap: Bootstrap,
) -> TopicComparison:
    """Put the same questions of both sides beside each other.

    Args:
        topic: what they are called.
        first: one side's answers.
        second: the other side's.
        metrics: those of the first and of the second side.
        bootstrap: how differences are resampled.
    """
    patients = [record.patient_key for record in first]
    right = [[is_right(record) for record in side] for side in (first, second)]
    return TopicComparison(
        topic=topic,
        closed=bool(first[0].options),
        num_questions=len(first),
        num_patients=len(set(patients)),
        differences=paired_differences(metrics[0], metrics[1], patients, bootstrap),
        both_right=sum(one and other for one, other in zip(*right, strict=True)),
        mcnemar=mcnemar(right[0], right[1]),
        num_different=sum(
            normalise(one.answer) != normalise(other.answer)
            for one, other in zip(first, second, strict=True)
        ),
    )


def _difference(first: Metric, second: Metric) -> Metric:
    def metric(weights: Floats) -> Floats:
        return second(weights) - first(weights)

    return metric


def two_sided_p(draws: Floats) -> float | None:
    """P value of a difference from its draws (R,); None where no draw defines it."""
    defined = draws[~np.isnan(draws)]
    if not defined.size:
        return None
    fewer = min(int((defined <= 0).sum()), int((defined >= 0).sum()))
    return min(1.0, 2 * (1 + fewer) / (1 + defined.size))


def _question(record: AnswerRecord) -> tuple[str, str, str, str, frozenset[str]]:
    return (
        record.study_id,
        record.patient_key,
        record.topic,
        record.truth,
        frozenset(record.options),
    )
