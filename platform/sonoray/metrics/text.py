"""Free-text answers: exact match and character F1, with intervals over patients.

Chinese has no blanks between words, so overlap is counted in characters: F1 of the two bags of
characters, after Unicode normalisation (NFKC, case folded) and without blanks. It says how much of
the wording returns, not whether a sentence is clinically right.
"""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sonoray.metrics.bootstrap import Bootstrap, Estimate, estimate
from sonoray.metrics.closed import AnswerRecord, accuracy_metric


@dataclass(frozen=True, kw_only=True, slots=True)
class TextMetrics:
    """The metrics of one topic's free-text questions."""

    topic: str
    num_questions: int
    num_patients: int
    exact_match: Estimate
    char_f1: Estimate

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def normalise(text: str) -> str:
    """NFKC, case folded, without any blank."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def char_f1(truth: str, answer: str) -> float:
    """F1 of the shared characters, counted with repetition; 1 where both are empty."""
    wanted, given = Counter(normalise(truth)), Counter(normalise(answer))
    total = wanted.total() + given.total()
    return 2 * (wanted & given).total() / total if total else 1.0


def text_metrics(
    records: Iterable[AnswerRecord], *, bootstrap: Bootstrap | None = None
) -> list[TextMetrics]:
    """Compute the metrics of each topic; records with options are left to `closed_metrics`."""
    groups: defaultdict[str, list[AnswerRecord]] = defaultdict(list)
    for record in records:
        if not record.options:
            groups[record.topic].append(record)
    return [
        _topic_metrics(topic, group, bootstrap or Bootstrap()) for topic, group in groups.items()
    ]


def _topic_metrics(topic: str, records: list[AnswerRecord], bootstrap: Bootstrap) -> TextMetrics:
    patients = [record.patient_key for record in records]
    same = [float(normalise(r.truth) == normalise(r.answer)) for r in records]
    overlap = [char_f1(r.truth, r.answer) for r in records]
    exact = estimate(accuracy_metric(np.array(same)), patients, bootstrap)
    shared = estimate(accuracy_metric(np.array(overlap)), patients, bootstrap)
    assert exact is not None  # a group has a record
    assert shared is not None
    return TextMetrics(
        topic=topic,
        num_questions=len(records),
        num_patients=len(set(patients)),
        exact_match=exact,
        char_f1=shared,
    )
