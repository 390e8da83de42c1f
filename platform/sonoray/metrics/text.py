"""Free-text answers: exact match and overlap with the true text, with intervals over patients.

Chinese has no blanks between words, so overlap is counted in characters, and in words beside it
(`tokens`, `overlap`). None of it says whether a sentence is clinically right.

Reports repeat each other. A model that always gives the training split's most frequent text, or
recites one that it has seen, scores high without an image. So each topic also has

- the constant answer: the most frequent training text in place of every answer;
- `seen` and `unseen`: the questions whose true text is, or is not, the text of some training
  question of the same topic, after the same normalisation as the exact match.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from sonoray.metrics.answers import AnswerRecord, most_frequent
from sonoray.metrics.overlap import OVERLAP_METRICS, overlap_metrics
from sonoray.metrics.resampling import Bootstrap, Estimate, Metric, among, estimates, mean_metric
from sonoray.metrics.tokens import character_tokens, fold, word_tokens

HEADLINES = ("exact_match", "char_f1", "char_bleu_4", "char_rouge_l", "char_cider")
"""The scores that also the constant answer and the seen and unseen questions get."""

TEXT_METRICS = (
    "exact_match",
    "char_f1",
    *(f"char_{name}" for name in OVERLAP_METRICS),
    *(f"word_{name}" for name in OVERLAP_METRICS),
)
"""All scores, in the order of reports; the prefix says what is counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextMetrics:
    """The metrics of one topic's free-text questions."""

    topic: str
    num_questions: int
    num_patients: int
    exact_match: Estimate
    char_f1: Estimate
    overlap: Mapping[str, Estimate]
    """The rest of `TEXT_METRICS`, by name."""
    num_training: int
    """Training questions of this topic; the constant answer and `seen` come from them."""
    constant_answer: str | None = field(repr=False)
    """Most frequent training text. It is a patient's: `to_json` leaves it out."""
    constant: Mapping[str, Estimate]
    """`HEADLINES` of the constant answer; empty where training has no such question."""
    num_seen: int
    """Questions whose true text is a training text."""
    seen: Mapping[str, Estimate]
    """`HEADLINES` of these; empty where there are none. CIDEr keeps its document frequencies."""
    unseen: Mapping[str, Estimate]
    """`HEADLINES` of the others."""

    @property
    def seen_share(self) -> float:
        """Share of the true texts that occur in training."""
        return self.num_seen / self.num_questions

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, without any text."""
        values = asdict(self) | {"seen_share": self.seen_share}
        del values["constant_answer"]
        return values


def normalise(text: str) -> str:
    """NFKC, case folded, without any blank."""
    return "".join(fold(text).split())


def char_f1(truth: str, answer: str) -> float:
    """F1 of the shared characters, counted with repetition; 1 where both are empty."""
    wanted, given = Counter(normalise(truth)), Counter(normalise(answer))
    total = wanted.total() + given.total()
    return 2 * (wanted & given).total() / total if total else 1.0


def text_metrics(
    records: Iterable[AnswerRecord],
    *,
    training_answers: Mapping[str, Sequence[str]],
    bootstrap: Bootstrap | None = None,
) -> list[TextMetrics]:
    """Compute the metrics of each topic; records with options are left to `closed_metrics`.

    Args:
        records: answered questions.
        training_answers: the true texts of the training split, by topic.
        bootstrap: how the intervals are made.
    """
    groups: defaultdict[str, list[AnswerRecord]] = defaultdict(list)
    for record in records:
        if not record.options:
            groups[record.topic].append(record)
    return [
        _topic_metrics(topic, group, training_answers.get(topic, ()), bootstrap or Bootstrap())
        for topic, group in groups.items()
    ]


def text_answer_metrics(records: Sequence[AnswerRecord]) -> dict[str, Metric]:
    """Return the metrics of `TEXT_METRICS` of answers with one true text each."""
    metrics = {
        "exact_match": mean_metric(
            np.array([float(normalise(r.truth) == normalise(r.answer)) for r in records])
        ),
        "char_f1": mean_metric(np.array([char_f1(r.truth, r.answer) for r in records])),
    }
    for level, cut in (("char", character_tokens), ("word", word_tokens)):
        truths = [[cut(record.truth)] for record in records]
        answers = [cut(record.answer) for record in records]
        for name, metric in overlap_metrics(truths, answers).items():
            metrics[f"{level}_{name}"] = metric
    return metrics


def _topic_metrics(
    topic: str,
    records: list[AnswerRecord],
    training_answers: Sequence[str],
    bootstrap: Bootstrap,
) -> TextMetrics:
    patients = [record.patient_key for record in records]
    known = set(map(normalise, training_answers))
    seen = np.array([normalise(record.truth) in known for record in records])
    constant = most_frequent(training_answers)
    own = text_answer_metrics(records)
    groups = {
        "": own,
        "seen ": {name: among(own[name], seen) for name in HEADLINES},
        "unseen ": {name: among(own[name], ~seen) for name in HEADLINES},
    }
    if constant is not None:
        same = text_answer_metrics([replace(record, answer=constant) for record in records])
        groups["constant "] = {name: same[name] for name in HEADLINES}
    found = estimates(
        {
            prefix + name: metric
            for prefix, group in groups.items()
            for name, metric in group.items()
        },
        patients,
        bootstrap,
    )

    def of(prefix: str, names: Iterable[str]) -> dict[str, Estimate]:
        values = {name: found.get(prefix + name) for name in names}
        return {name: value for name, value in values.items() if value is not None}

    scores = of("", TEXT_METRICS)
    return TextMetrics(
        topic=topic,
        num_questions=len(records),
        num_patients=len(set(patients)),
        exact_match=scores.pop("exact_match"),
        char_f1=scores.pop("char_f1"),
        overlap=scores,
        num_training=len(training_answers),
        constant_answer=constant,
        constant=of("constant ", HEADLINES),
        num_seen=int(seen.sum()),
        seen=of("seen ", HEADLINES),
        unseen=of("unseen ", HEADLINES),
    )
