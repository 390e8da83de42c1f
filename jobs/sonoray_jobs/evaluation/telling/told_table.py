"""Plain prompts, told ones and those of others in one table."""

from collections.abc import Mapping
from typing import Any

from sonoray.metrics.paired import Difference
from sonoray.metrics.resampling import Estimate
from sonoray.metrics.tables import Table
from sonoray_jobs.evaluation.telling.tell_report import WAYS


def told_table(values: Mapping[str, Any]) -> Table:
    """One row per topic."""
    rows = []
    for topic, own in values["topics"].items():
        ways = own["ways"]
        rows.append(
            (
                topic,
                f"{own['num_questions']} ({own['num_patients']})",
                "-" if own["constant"] is None else f"{own['constant']:.3f}",
                *(_value(ways[way]["accuracy"]) for way in WAYS),
                _signed(own["told_minus_plain"].get("accuracy")),
                _signed(own["told_minus_other"].get("accuracy")),
                _signed(own["told_minus_plain"].get("auc")),
                _signed(own["told_minus_plain"].get("false_negatives")),
            )
        )
    return Table(
        header=(
            "topic",
            "questions (patients)",
            "constant",
            *WAYS,
            "told minus plain",
            "told minus other",
            "AUC, told minus plain",
            "false negatives, told minus plain",
        ),
        rows=tuple(rows),
    )


def _value(found: Mapping[str, Any]) -> str:
    return f"{Estimate(**found).value:.3f}"


def _signed(difference: Mapping[str, Any] | None) -> str:
    if difference is None:
        return "-"
    found = Difference(**difference)
    text = f"{found.value:+.3f}"
    return text if found.low is None else f"{text} [{found.low:+.3f}, {found.high:+.3f}]"
