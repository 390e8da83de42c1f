"""Closed questions: accuracy, balanced accuracy, F1 and AUC, beside the constant answer.

A closed question names its options; the model answers with the likeliest and leaves the
log-likelihood of each. Every number comes with an interval over patients (`bootstrap`).

Choices. Balanced accuracy is the mean recall over the classes that occur. Macro F1 is the mean F1
over the options that occur as truth or answer, as in scikit-learn; an answer that is no option
misses its truth and makes no class of its own. AUC of two options ranks by the difference of their
log-likelihoods, which orders like the probability of the positive one; of more options it is the
mean one-against-the-rest AUC of the softmax probabilities, over the classes that occur. The
constant answer is the most frequent answer of the *training* split: what a model reaches that never
looks at an image, and the number that accuracy must be read against.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from sonoray.errors import DataError
from sonoray.metrics.resampling import Bootstrap, Estimate, Floats, Metric, estimates, mean_metric

ALL_CLOSED = "all closed questions"
"""What reports call the questions of all closed topics together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerRecord:
    """One question that the model answered."""

    study_id: str
    patient_key: str
    topic: str
    """What was asked for; metrics are grouped by it."""
    truth: str
    answer: str
    options: tuple[str, ...] = ()
    """The admissible answers; none for a question that wants free text."""
    option_scores: Mapping[str, float] = field(default_factory=dict)
    """Log-likelihood of each option."""


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


def accuracy_metric(records: Sequence[AnswerRecord]) -> Metric:
    """Share of the answers that are the truth, whatever the topics."""
    return mean_metric(np.array([float(record.answer == record.truth) for record in records]))


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


def topic_options(
    topic: str, records: Sequence[AnswerRecord], positive: str | None
) -> tuple[str, ...]:
    """Return all options of a topic as they come; of two, the positive one last.

    Raises:
        DataError: the positive option is none of them.
    """
    options = tuple(dict.fromkeys(option for record in records for option in record.options))
    if positive is not None and positive not in options:
        raise DataError(
            f"topic {topic!r}: positive option {positive!r} is none of {', '.join(options)}"
        )
    if len(options) == 2 and positive is not None:
        options = (*(option for option in options if option != positive), positive)
    return options


def f1_metric(
    truth: npt.NDArray[np.int64], answer: npt.NDArray[np.int64], classes: Sequence[int]
) -> Metric:
    """Mean F1 over those of `classes` that a draw holds as truth or answer.

    Args:
        truth: the true class of each answer.
        answer: the class that was answered; -1 for none of them.
        classes: the classes that count.
    """
    wanted, given = (
        np.stack([values == number for number in classes], axis=1).astype(np.float64)
        for values in (truth, answer)
    )

    def metric(weights: Floats) -> Floats:
        total = weights @ wanted + weights @ given
        with np.errstate(invalid="ignore"):
            scores = np.where(total > 0, 2 * (weights @ (wanted * given)) / total, np.nan)
        return _mean_of_defined(scores, at_least=1)

    return metric


def balanced_accuracy_metric(hits: Floats, truth: npt.NDArray[np.int64]) -> Metric:
    """Mean recall over the classes that a draw holds; a draw of one class is undefined."""
    classes = np.unique(truth)
    members = (truth[:, None] == classes[None, :]).astype(np.float64)

    def metric(weights: Floats) -> Floats:
        total = weights @ members
        right = weights @ (members * hits[:, None])
        with np.errstate(invalid="ignore"):
            recall = np.where(total > 0, right / total, np.nan)
        return _mean_of_defined(recall, at_least=min(2, classes.size))

    return metric


def auc_metric(scores: Floats, truth: npt.NDArray[np.int64]) -> Metric:
    """Mean one-against-the-rest AUC over the columns of `scores`.

    Args:
        scores: a score for each class, or one column for class 1 of two classes.
        truth: the true class of each answer, an index of a column (0 or 1 for one column).
    """
    if scores.shape[1] == 1:
        parts = [_binary_auc_metric(scores[:, 0], truth == 1)]
    else:
        parts = [
            _binary_auc_metric(column, truth == number) for number, column in enumerate(scores.T)
        ]

    def metric(weights: Floats) -> Floats:
        return _mean_of_defined(np.stack([part(weights) for part in parts], axis=1), at_least=1)

    return metric


def _binary_auc_metric(scores: Floats, is_positive: npt.NDArray[np.bool_]) -> Metric:
    """Weighted share of (positive, negative) pairs that the score orders; ties count half."""
    order = np.argsort(scores, kind="stable")
    positive = is_positive[order].astype(np.float64)
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))  # one group per value

    def metric(weights: Floats) -> Floats:
        ranked = weights[:, order]
        positives = np.add.reduceat(ranked * positive, starts, axis=1)
        negatives = np.add.reduceat(ranked * (1 - positive), starts, axis=1)
        below = np.cumsum(negatives, axis=1) - negatives / 2
        pairs = positives.sum(axis=1) * negatives.sum(axis=1)
        ordered = (positives * below).sum(axis=1)
        with np.errstate(invalid="ignore"):
            return np.where(pairs > 0, ordered / pairs, np.nan)

    return metric


def _mean_of_defined(values: Floats, *, at_least: int) -> Floats:
    defined = ~np.isnan(values)
    count = defined.sum(axis=1)
    total = np.where(defined, values, 0.0).sum(axis=1)
    return np.where(count >= at_least, total / np.maximum(count, 1), np.nan)


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
        constant_answer=constant,
        constant_accuracy=found.get("constant_accuracy"),
    )


def class_scores(records: Sequence[AnswerRecord], options: Sequence[str]) -> Floats | None:
    """Scores (N, 1) for two options, (N, C) for more; None where a question lacks one of them."""
    if len(options) < 2 or any(len(record.option_scores) != len(options) for record in records):
        return None
    logits = np.array([[record.option_scores[option] for option in options] for record in records])
    if len(options) == 2:
        return np.asarray(logits[:, 1:] - logits[:, :1])
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def most_frequent(answers: Sequence[str]) -> str | None:
    """The commonest answer; of equally common ones the first by name, whatever their order."""
    counts = Counter(answers)
    return min(counts, key=lambda answer: (-counts[answer], answer)) if counts else None


def check(record: AnswerRecord) -> None:
    """Refuse a record that contradicts itself.

    Raises:
        DataError: see `closed_metrics`.
    """
    where = f"study {record.study_id!r}, topic {record.topic!r}"
    if record.truth not in record.options:
        raise DataError(
            f"{where}: true answer {record.truth!r} is none of the options "
            f"{', '.join(record.options)}"
        )
    if record.option_scores and set(record.option_scores) != set(record.options):
        raise DataError(
            f"{where}: scores of {', '.join(record.option_scores)} do not match the options "
            f"{', '.join(record.options)}"
        )
    if not np.isfinite(list(record.option_scores.values())).all():
        raise DataError(f"{where}: scores {dict(record.option_scores)} are not finite numbers")
