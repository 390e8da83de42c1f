"""Metrics as a table: Markdown lines for a README, aligned text for a terminal."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from sonoray.metrics.bootstrap import Estimate
from sonoray.metrics.closed import ClosedMetrics
from sonoray.metrics.text import TextMetrics


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


def closed_table(metrics: Sequence[ClosedMetrics]) -> Table:
    """Lay out closed questions: one row per topic, intervals in brackets."""
    return Table(
        header=(
            "topic",
            "questions (patients)",
            "accuracy",
            "balanced accuracy",
            "AUC",
            "constant answer",
        ),
        rows=tuple(
            (
                item.topic,
                f"{item.num_questions} ({item.num_patients})",
                _cell(item.accuracy),
                _cell(item.balanced_accuracy),
                _cell(item.auc),
                "-"
                if item.constant_answer is None
                else f"{_cell(item.constant_accuracy)} {item.constant_answer}",
            )
            for item in metrics
        ),
    )


def text_table(metrics: Sequence[TextMetrics]) -> Table:
    """Lay out free-text questions: one row per topic, intervals in brackets."""
    return Table(
        header=("topic", "questions (patients)", "exact match", "character F1"),
        rows=tuple(
            (
                item.topic,
                f"{item.num_questions} ({item.num_patients})",
                _cell(item.exact_match),
                _cell(item.char_f1),
            )
            for item in metrics
        ),
    )


def _cell(value: Estimate | None) -> str:
    if value is None:
        return "-"
    if value.low is None or value.high is None:
        return f"{value.value:.3f}"
    return f"{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]"


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(sign) in "WF" else 1 for sign in text)


def _pad(text: str, width: int) -> str:
    return text + " " * (width - _width(text))
