"""Metrics as a table: Markdown lines for a README, aligned text for a terminal."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, log10

from sonoray.metrics.closed import ALL_CLOSED, AllClosed, ClosedMetrics
from sonoray.metrics.overlap import OVERLAP_METRICS
from sonoray.metrics.paired import Difference, TopicComparison
from sonoray.metrics.resampling import Estimate
from sonoray.metrics.text import HEADLINES, TextMetrics


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows of cells below a header; every row is as long as the header."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.header) for row in self.rows)

    def markdown(self) -> list[str]:
        """Return the lines of a Markdown table; `|` in a cell is escaped."""
        rule = tuple("---" for _ in self.header)
        return [
            "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
            for row in (self.header, rule, *self.rows)
        ]

    def text(self) -> list[str]:
        """Return lines with aligned columns; a Chinese character is two columns wide."""
        lines = (self.header, *self.rows)
        widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]
        return ["  ".join(map(_pad, line, widths)).rstrip() for line in lines]


def closed_table(metrics: Sequence[ClosedMetrics], overall: AllClosed | None = None) -> Table:
    """Lay out closed questions: one row per topic, one of all, intervals in brackets."""
    last = (
        ()
        if overall is None
        else (
            (
                ALL_CLOSED,
                f"{overall.num_questions} ({overall.num_patients})",
                _cell(overall.accuracy),
                *("-", "-", "-"),
                _cell(overall.constant_accuracy),
            ),
        )
    )
    return Table(
        header=(
            "topic",
            "questions (patients)",
            "accuracy",
            "balanced accuracy",
            "AUC",
            "macro F1",
            "constant answer",
        ),
        rows=(
            *(
                (
                    item.topic,
                    f"{item.num_questions} ({item.num_patients})",
                    _cell(item.accuracy),
                    _cell(item.balanced_accuracy),
                    _cell(item.auc),
                    _value(item.macro_f1),
                    "-"
                    if item.constant_answer is None
                    else f"{_cell(item.constant_accuracy)} {item.constant_answer}",
                )
                for item in metrics
            ),
            *last,
        ),
    )


def f1_table(metrics: Sequence[ClosedMetrics]) -> Table:
    """Lay out the F1 of closed questions with their intervals."""
    return Table(
        header=("topic", "macro F1", "F1 of the positive option"),
        rows=tuple((item.topic, _cell(item.macro_f1), _cell(item.positive_f1)) for item in metrics),
    )


def clinical_table(metrics: Sequence[ClosedMetrics]) -> Table:
    """Lay out what a clinician asks of two options, and how far the probabilities can be believed.

    Topics without two options have no sensitivity; those without scores of all options no
    calibration.
    """
    return Table(
        header=("topic", "positive option", "sensitivity", "specificity", "Brier score", "ECE"),
        rows=tuple(
            (
                item.topic,
                item.positive or "-",
                *map(_cell, (item.sensitivity, item.specificity, item.brier, item.ece)),
            )
            for item in metrics
        ),
    )


def text_table(metrics: Sequence[TextMetrics]) -> Table:
    """Lay out free-text questions, compactly: one row per topic, two intervals.

    BLEU-4, ROUGE-L and CIDEr count characters. The constant answer is given with its exact match
    and character F1.
    """
    return Table(
        header=(
            "topic",
            "questions (patients)",
            "exact match",
            "character F1",
            "BLEU-4",
            "ROUGE-L",
            "CIDEr",
            "constant answer",
            "truth in training",
        ),
        rows=tuple(
            (
                item.topic,
                f"{item.num_questions} ({item.num_patients})",
                _cell(item.exact_match),
                _cell(item.char_f1),
                *(
                    _value(item.overlap.get(name))
                    for name in ("char_bleu_4", "char_rouge_l", "char_cider")
                ),
                f"{_value(item.constant['exact_match'])}, F1 {_value(item.constant['char_f1'])}"
                if item.constant
                else "-",
                f"{item.seen_share:.0%}",
            )
            for item in metrics
        ),
    )


def seen_table(metrics: Sequence[TextMetrics]) -> Table:
    """Lay out, for each topic, all answers, the constant one, and truths seen in training or not.

    The columns are `HEADLINES`; BLEU-4, ROUGE-L and CIDEr count characters.
    """
    rows = []
    for item in metrics:
        whole = {"exact_match": item.exact_match, "char_f1": item.char_f1, **item.overlap}
        for label, number, scores in (
            ("all", item.num_questions, whole),
            ("constant answer", item.num_questions, item.constant),
            ("truth seen in training", item.num_seen, item.seen),
            ("truth not seen", item.num_questions - item.num_seen, item.unseen),
        ):
            cells = (_cell(scores.get(name)) for name in HEADLINES)
            rows.append((item.topic, label, str(number), *cells))
    header = ("exact match", "character F1", "BLEU-4", "ROUGE-L", "CIDEr")
    return Table(header=("topic", "answers", "questions", *header), rows=tuple(rows))


def overlap_table(metrics: Sequence[TextMetrics]) -> Table:
    """Lay out every measure of overlap, counted in characters and in words."""
    rows = []
    for item in metrics:
        for name in OVERLAP_METRICS:
            levels = (_cell(item.overlap.get(f"{level}_{name}")) for level in ("char", "word"))
            rows.append((item.topic, _TITLES[name], *levels))
    return Table(header=("topic", "measure", "characters", "words"), rows=tuple(rows))


def comparison_table(comparisons: Sequence[TopicComparison]) -> Table:
    """Lay out a paired comparison: one row per topic and headline metric."""
    rows = []
    for item in comparisons:
        names = CLOSED_HEADLINES if item.closed else HEADLINES
        for name in names:
            found = item.differences.get(name)
            if found is None:
                continue
            rows.append(
                (
                    item.topic,
                    f"{item.num_questions} ({item.num_patients})",
                    _TITLES[name],
                    f"{found.first:.3f}",
                    f"{found.second:.3f}",
                    _signed(found),
                    _p_value(found.p_value),
                )
            )
    return Table(
        header=(
            "topic",
            "questions (patients)",
            "metric",
            "first",
            "second",
            "second - first",
            "p",
        ),
        rows=tuple(rows),
    )


def disagreement_table(comparisons: Sequence[TopicComparison]) -> Table:
    """Lay out who is right where, with McNemar's exact test, which knows of no patients."""
    return Table(
        header=(
            "topic",
            "both right",
            "only first",
            "only second",
            "both wrong",
            "different answers",
            "McNemar p (over questions)",
        ),
        rows=tuple(
            (
                item.topic,
                str(item.both_right),
                str(item.mcnemar.only_first),
                str(item.mcnemar.only_second),
                str(item.both_wrong),
                str(item.num_different),
                _p_value(item.mcnemar.p_value),
            )
            for item in comparisons
        ),
    )


CLOSED_HEADLINES = ("accuracy", "balanced_accuracy", "macro_f1", "auc")
"""The metrics of closed questions that a comparison shows."""

_TITLES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "auc": "AUC",
    "exact_match": "exact match",
    "char_f1": "character F1",
    "char_bleu_4": "BLEU-4",
    "char_rouge_l": "ROUGE-L",
    "char_cider": "CIDEr",
    **{f"bleu_{order}": f"BLEU-{order}" for order in range(1, 5)},
    "rouge_1": "ROUGE-1",
    "rouge_2": "ROUGE-2",
    "rouge_l": "ROUGE-L",
    "meteor": "METEOR",
    "cider": "CIDEr",
}


_DIGITS = 3
_ROUNDS_TO_ZERO = 0.0005
_MOST_DIGITS = 9
"""Below lies what floating point leaves of equal numbers."""


def _value(value: Estimate | None) -> str:
    return "-" if value is None else f"{value.value:.3f}"


def _signed(difference: Difference) -> str:
    """A difference with its interval; one that rounds to zero has two digits that count."""
    size = abs(difference.value)
    small = 0 < size < _ROUNDS_TO_ZERO
    digits = min(1 - floor(log10(size)), _MOST_DIGITS) if small else _DIGITS
    text = f"{difference.value:+.{digits}f}"
    if difference.low is None or difference.high is None:
        return text
    return f"{text} [{difference.low:+.{digits}f}, {difference.high:+.{digits}f}]"


def _p_value(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if value >= 0.001 else "<0.001"


def _cell(value: Estimate | None) -> str:
    return "-" if value is None else str(value)


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(sign) in "WF" else 1 for sign in text)


def _pad(text: str, width: int) -> str:
    return text + " " * (width - _width(text))
