"""Closed questions: accuracy, recalls, F1, AUC and calibration, beside the constant answer.

A closed question names its options; the model answers with the likeliest and leaves the
log-likelihood of each. Every number comes with an interval over patients (`bootstrap`).

Choices. Balanced accuracy is the mean recall over the classes that occur. Macro F1 is the mean F1
over the options that occur as truth or answer, as in scikit-learn; an answer that is no option
misses its truth and makes no class of its own. AUC of two options ranks by the difference of their
log-likelihoods, which orders like the probability of the positive one; of more options it is the
mean one-against-the-rest AUC of the softmax probabilities, over the classes that occur. Sensitivity
and specificity are the recalls of two options; Brier score and ECE are those of
`external.calibration`. The constant answer is the most frequent answer of the *training* split:
what a model reaches that never looks at an image, and the number that accuracy must be read
against.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sonoray.metrics.answers import (
    AnswerRecord,
    check,
    class_probabilities,
    class_scores,
    most_frequent,
    topic_options,
)
from sonoray.metrics.class_rates import (
    accuracy_metric,
    auc_metric,
    balanced_accuracy_metric,
    f1_metric,
)
from sonoray.metrics.external.calibration import calibration_metrics
from sonoray.metrics.resampling import (
    Bootstrap,
    Estimate,
    Metric,
    among,
    estimates,
    mean_metric,
)

ALL_CLOSED = "all closed questions"
"""What reports call the questions of all closed topics together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClosedMetrics:
    """The metrics of one topic's closed questions."""

    topic: str
    num_questions: int
    num_patients: int
    options: tuple[str, ...]
    positive: str | None
    """The option whose presence the AUC of two options detects; None for more than two."""
    num_off_option: int
    """Answers that are none of the options; they count as wrong."""
    accuracy: Estimate
    balanced_accuracy: Estimate
    macro_f1: Estimate
    positive_f1: Estimate | None
    """F1 of the positive option; None where the configuration names none for the topic."""
    auc: Estimate | None
    """None where an option has no score or all questions have the same true answer."""
    sensitivity: Estimate | None
    """Recall of the positive option; None for more than two options, or where it is never true."""
    specificity: Estimate | None
    """Recall of the other option of two; None as for the sensitivity."""
    brier: Estimate | None
    """None where an option has no score; so is the ECE."""
    ece: Estimate | None
    constant_answer: str | None
    """Most frequent training answer; None where training has no such question."""
    constant_accuracy: Estimate | None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class AllClosed:
    """The accuracy over the closed questions of all topics, which have no options in common."""

    num_questions: int
    num_patients: int
    accuracy: Estimate
    constant_accuracy: Estimate | None
    """Of each topic's constant answer; None where training lacks a topic."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def closed_metrics(
    records: Iterable[AnswerRecord],
    *,
    training_answers: Mapping[str, Sequence[str]],
    positive: Mapping[str, str] | None = None,
    bootstrap: Bootstrap | None = None,
) -> list[ClosedMetrics]:
    """Compute the metrics of each topic, in the order in which topics appear.

    Args:
        records: answered questions; those without options are left to `text_metrics`.
        training_answers: the true answers of the training split, by topic.
        positive: the positive option of topics with two options, where it is not the last one.
        bootstrap: how the intervals are made.

    Raises:
        DataError: a truth that is no option, scores of other options than the question's, a score
            that is not finite, or a positive option that the topic does not have.
    """
    groups: defaultdict[str, list[AnswerRecord]] = defaultdict(list)
    for record in records:
        if record.options:
            check(record)
            groups[record.topic].append(record)
    return [
        _topic_metrics(
            topic,
            group,
            training_answers.get(topic, ()),
            (positive or {}).get(topic),
            bootstrap or Bootstrap(),
        )
        for topic, group in groups.items()
    ]


def all_closed_metrics(
    records: Iterable[AnswerRecord],
    *,
    training_answers: Mapping[str, Sequence[str]],
    bootstrap: Bootstrap | None = None,
) -> AllClosed | None:
    """Compute the accuracy over all closed questions; None where there is none.

    Args:
        records: answered questions; those without options are left out.
        training_answers: the true answers of the training split, by topic.
        bootstrap: how the intervals are made.
    """
    closed = [record for record in records if record.options]
    if not closed:
        return None
    patients = [record.patient_key for record in closed]
    metrics = {"accuracy": accuracy_metric(closed)}
    constants = {
        topic: most_frequent(training_answers.get(topic, ()))
        for topic in {record.topic for record in closed}
    }
    if None not in constants.values():
        is_constant = [float(record.truth == constants[record.topic]) for record in closed]
        metrics["constant_accuracy"] = mean_metric(np.array(is_constant))
    found = estimates(metrics, patients, bootstrap or Bootstrap())
    accuracy = found["accuracy"]
    assert accuracy is not None  # there is a record
    return AllClosed(
        num_questions=len(closed),
        num_patients=len(set(patients)),
        accuracy=accuracy,
        constant_accuracy=found.get("constant_accuracy"),
    )


def answer_metrics(
    records: Sequence[AnswerRecord], options: Sequence[str], positive: str | None = None
) -> dict[str, Metric]:
    """Return the metrics of one topic's answers, in the order of reports.

    Args:
        records: answers of one topic, with options.
        options: all options; of two, the last one is the positive one of the AUC.
        positive: the option whose F1 is wanted.

    Returns:
        `accuracy`, `balanced_accuracy`, `macro_f1`, `positive_f1` where one is named, and `auc`
        where every answer has the scores of all options.
    """
    truth = np.array([options.index(record.truth) for record in records])
    number = {option: place for place, option in enumerate(options)}
    answer = np.array([number.get(record.answer, -1) for record in records])
    hits = (answer == truth).astype(np.float64)
    metrics = {
        "accuracy": mean_metric(hits),
        "balanced_accuracy": balanced_accuracy_metric(hits, truth),
        "macro_f1": f1_metric(truth, answer, range(len(options))),
    }
    if positive is not None:
        metrics["positive_f1"] = f1_metric(truth, answer, [options.index(positive)])
    scores = class_scores(records, options)
    if scores is not None:
        metrics["auc"] = auc_metric(scores, truth)
    return metrics


def _topic_metrics(
    topic: str,
    records: Sequence[AnswerRecord],
    training_answers: Sequence[str],
    positive: str | None,
    bootstrap: Bootstrap,
) -> ClosedMetrics:
    options = topic_options(topic, records, positive)
    patients = [record.patient_key for record in records]
    constant = most_frequent(training_answers)
    metrics = answer_metrics(records, options, positive)
    truth = np.array([options.index(record.truth) for record in records])
    if len(options) == 2:
        for name, number in (("sensitivity", 1), ("specificity", 0)):
            metrics[name] = among(accuracy_metric(records), truth == number)
    probabilities = class_probabilities(records, options)
    if probabilities is not None:
        metrics |= calibration_metrics(probabilities, truth)
    if constant is not None:
        is_constant = np.array([float(record.truth == constant) for record in records])
        metrics["constant_accuracy"] = mean_metric(is_constant)
    found = estimates(metrics, patients, bootstrap)
    accuracy, balanced = found["accuracy"], found["balanced_accuracy"]
    macro_f1 = found["macro_f1"]
    assert accuracy is not None  # a group has a record
    assert balanced is not None
    assert macro_f1 is not None
    return ClosedMetrics(
        topic=topic,
        num_questions=len(records),
        num_patients=len(set(patients)),
        options=options,
        positive=options[-1] if len(options) == 2 else None,
        num_off_option=sum(record.answer not in record.options for record in records),
        accuracy=accuracy,
        balanced_accuracy=balanced,
        macro_f1=macro_f1,
        positive_f1=found.get("positive_f1"),
        auc=found.get("auc"),
        sensitivity=found.get("sensitivity"),
        specificity=found.get("specificity"),
        brier=found.get("brier"),
        ece=found.get("ece"),
        constant_answer=constant,
        constant_accuracy=found.get("constant_accuracy"),
    )
