"""One topic of an external validation in numbers: how good, how sure, for whom, and how much worse.

Everything is computed from the answers alone, with intervals over patients. The internal test's
answers come out of the exported model and are judged by the same functions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sonoray.metrics import AnswerRecord, Bootstrap, Difference, Estimate
from sonoray.metrics.answers import check, class_probabilities, most_frequent, topic_options
from sonoray.metrics.closed import answer_metrics
from sonoray.metrics.external.calibration import (
    Calibration,
    calibration_metrics,
    measure_calibration,
)
from sonoray.metrics.external.decision_curve import DecisionPoint, decision_curve
from sonoray.metrics.external.groups import Group, metrics_by_group
from sonoray.metrics.external.risk_coverage import RiskCoverage, risk_coverage
from sonoray.metrics.external.two_samples import independent_differences
from sonoray.metrics.resampling import Metric, estimates, mean_metric

GROUP_METRICS = ("accuracy", "auc", "brier")
"""What is computed of a group, beside the share of its positive answers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TopicVerdict:
    """What a validation says on one topic."""

    topic: str
    options: tuple[str, ...]
    positive: str | None
    """The option that AUC, calibration and decision curve are of; None for more than two."""
    num_questions: int
    num_patients: int
    external: Mapping[str, Estimate | None]
    """By metric; None where the answers leave it undefined."""
    constant_answer: str
    constant_accuracy: Estimate | None
    """Of the most frequent training answer."""
    internal_questions: int
    internal_patients: int
    internal: Mapping[str, Estimate | None]
    """The same metrics of the internal test; empty where the model holds none."""
    differences: Mapping[str, Difference]
    """External minus internal."""
    calibration: Calibration
    risks: RiskCoverage
    decisions: tuple[DecisionPoint, ...]
    """Empty for more than two options."""
    groups: Mapping[str, Sequence[Group]]
    """By label."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def judge_topic(
    topic: str,
    records: Sequence[AnswerRecord],
    internal: Sequence[AnswerRecord],
    groups: Mapping[str, Mapping[str, str]],
    *,
    training_answers: Mapping[str, int],
    positive: str | None,
    bootstrap: Bootstrap,
    least_patients: int,
) -> TopicVerdict:
    """Judge the answers on one topic.

    Args:
        topic: what was asked for.
        records: the answers, each with the scores of all options.
        internal: those of the internal test.
        groups: by label, the value of each study.
        training_answers: how often each option was the answer in training.
        positive: the positive option of two, where it is not the last one.
        bootstrap: how intervals are made.
        least_patients: patients of a group that is shown by itself.

    Raises:
        DataError: a record contradicts itself, or the positive option is none.
    """
    for record in records:
        check(record)
    options = topic_options(topic, records, positive)
    own = [record for record in internal if set(record.options) == set(options)]
    patients, other = ([record.patient_key for record in side] for side in (records, own))
    metrics = _metrics(records, options)
    constant = most_frequent([answer for answer, n in training_answers.items() for _ in range(n)])
    is_constant = np.array([float(record.truth == constant) for record in records])
    found = estimates(metrics | {"constant": mean_metric(is_constant)}, patients, bootstrap)
    constant_accuracy = found.pop("constant")
    of_internal = _metrics(own, options) if own else {}
    probabilities = class_probabilities(records, options)
    assert probabilities is not None  # every answer has the scores of all options
    truth = np.array([options.index(record.truth) for record in records])
    is_binary = len(options) == 2
    is_wrong = np.array([record.answer != record.truth for record in records])
    return TopicVerdict(
        topic=topic,
        options=options,
        positive=options[-1] if is_binary else None,
        num_questions=len(records),
        num_patients=len(set(patients)),
        external=found,
        constant_answer=constant or "",
        constant_accuracy=constant_accuracy,
        internal_questions=len(own),
        internal_patients=len(set(other)),
        internal=estimates(of_internal, other, bootstrap) if own else {},
        differences=independent_differences(of_internal, other, metrics, patients, bootstrap),
        calibration=measure_calibration(probabilities, truth, patients, bootstrap),
        risks=risk_coverage(probabilities.max(axis=1), is_wrong, patients, bootstrap),
        decisions=decision_curve(probabilities[:, 1], truth == 1, patients, bootstrap)
        if is_binary
        else (),
        groups={
            label: metrics_by_group(
                _of_groups(metrics, truth, is_binary=is_binary),
                [values.get(record.study_id, "") for record in records],
                patients,
                bootstrap,
                least_patients=least_patients,
            )
            for label, values in groups.items()
        },
    )


def _metrics(records: Sequence[AnswerRecord], options: Sequence[str]) -> dict[str, Metric]:
    probabilities = class_probabilities(records, options)
    assert probabilities is not None  # as in `judge_topic`
    truth = np.array([options.index(record.truth) for record in records])
    return answer_metrics(records, options) | calibration_metrics(probabilities, truth)


def _of_groups(
    metrics: Mapping[str, Metric], truth: "np.ndarray", *, is_binary: bool
) -> dict[str, Metric]:
    chosen = {name: metrics[name] for name in GROUP_METRICS if name in metrics}
    share = {"positive": mean_metric((truth == 1).astype(np.float64))} if is_binary else {}
    return share | chosen
