"""One answered question: what was asked, what is true, what the model said and how sure it was.

Every metric starts from these records; here they are checked, and read as options and scores.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from sonoray.errors import DataError
from sonoray.metrics.resampling import Floats

YES = ("1", "yes", "true", "present", "positive", "有", "是", "阳性")
"""What says yes to any question, in lower case."""
NO = ("0", "no", "false", "absent", "negative", "无", "没有", "否", "不是", "阴性")
"""What says no to any question, in lower case."""


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


def topic_options(
    topic: str, records: Sequence[AnswerRecord], positive: str | None
) -> tuple[str, ...]:
    """Return all options of a topic as they come; of two, the positive one last.

    Where nothing is said, of two options the one beside a plain no is positive, else the last one.

    Raises:
        DataError: the positive option is none of them.
    """
    options = tuple(dict.fromkeys(option for record in records for option in record.options))
    if positive is not None and positive not in options:
        raise DataError(
            f"topic {topic!r}: positive option {positive!r} is none of {', '.join(options)}"
        )
    if positive is None and len(options) == 2 and options[1].lower() in NO:
        positive = options[0]
    if len(options) == 2 and positive is not None:
        options = (*(option for option in options if option != positive), positive)
    return options


def class_scores(records: Sequence[AnswerRecord], options: Sequence[str]) -> Floats | None:
    """Scores (N, 1) for two options, (N, C) for more; None where a question lacks one of them."""
    logits = _class_logits(records, options)
    if logits is not None and len(options) == 2:
        return np.asarray(logits[:, 1:] - logits[:, :1])
    return None if logits is None else _softmax(logits)


def class_probabilities(records: Sequence[AnswerRecord], options: Sequence[str]) -> Floats | None:
    """Probability (N, C) of each option among the options; None where a question lacks one."""
    logits = _class_logits(records, options)
    return None if logits is None else _softmax(logits)


def _class_logits(records: Sequence[AnswerRecord], options: Sequence[str]) -> Floats | None:
    if len(options) < 2 or any(len(record.option_scores) != len(options) for record in records):
        return None
    return np.array([[record.option_scores[option] for option in options] for record in records])


def _softmax(logits: Floats) -> Floats:
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
