"""How good extracted fields are, and what contrast changes: figures over texts, paired.

A field that an answer states is right where the rules find it in the report, and hallucinated where
the report does not hold its value or no field has its name. The second needs no rule. Intervals are
over patients, of whom each text counts once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sonoray.metrics import Bootstrap
from sonoray.metrics.paired import Difference, paired_differences
from sonoray.metrics.resampling import Floats, Metric, estimates
from sonoray.metrics.tables import Table
from sonoray_jobs.evaluation.extraction.fields import (
    FIELDS,
    Field,
    find_fields,
    is_hallucinated,
    parse_fields,
)

_SHOWN = {
    "hallucinated": "hallucinated, of stated",
    "reports": "reports with one",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
}
ALL = "all fields"


@dataclass(frozen=True, kw_only=True, slots=True)
class Extracted:
    """What was read out of one report."""

    study_id: str
    patient_key: str
    report: str
    answer: str

    @property
    def stated(self) -> list[Field]:
        """The fields of the answer."""
        return parse_fields(self.answer)


def judge(side: Sequence[Extracted], bootstrap: Bootstrap) -> dict[str, Any]:
    """Figures of one way of decoding: by metric, estimate with interval; and counts."""
    found = estimates(metrics_of(side), [each.patient_key for each in side], bootstrap)
    return {
        "num_reports": len(side),
        "num_stated": sum(len(each.stated) for each in side),
        "num_hallucinated": sum(
            is_hallucinated(field, each.report) for each in side for field in each.stated
        ),
        **{name: None if value is None else value.to_json() for name, value in found.items()},
        "fields": {name: _counts(side, name) for name in FIELDS},
    }


def compare(
    plain: Sequence[Extracted], contrast: Sequence[Extracted], bootstrap: Bootstrap
) -> dict[str, Difference]:
    """Contrast minus plain, over the same reports in the same order."""
    return paired_differences(
        metrics_of(plain),
        metrics_of(contrast),
        [each.patient_key for each in plain],
        bootstrap,
    )


def metrics_of(side: Sequence[Extracted]) -> dict[str, Metric]:
    """Shares over all fields of weighted reports; a metric without a field is undefined."""
    rows = np.array([_row(each) for each in side], float).reshape(-1, 5)
    stated, right, hallucinated, true, has_one = rows.T
    return {
        "hallucinated": _ratio(hallucinated, stated),
        "reports": _ratio(has_one, np.ones(len(rows))),
        "precision": _ratio(right, stated),
        "recall": _ratio(right, true),
        "f1": _ratio(2 * right, stated + true),
    }


def _row(each: Extracted) -> tuple[int, int, int, int, bool]:
    stated, truth = set(each.stated), set(find_fields(each.report))
    wrong = sum(is_hallucinated(field, each.report) for field in stated)
    return len(stated), len(stated & truth), wrong, len(truth), wrong > 0


def _counts(side: Sequence[Extracted], name: str) -> dict[str, int]:
    """Of one field: how often stated, right, hallucinated, and true by the rules."""
    counts = {"stated": 0, "right": 0, "hallucinated": 0, "true": 0}
    for each in side:
        truth = {field for field in find_fields(each.report) if field.name == name}
        stated = {field for field in each.stated if field.name == name}
        counts["stated"] += len(stated)
        counts["right"] += len(stated & truth)
        counts["hallucinated"] += sum(is_hallucinated(field, each.report) for field in stated)
        counts["true"] += len(truth)
    return counts


def _ratio(part: Floats, whole: Floats) -> Metric:
    def metric(weights: Floats) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray((weights @ part) / (weights @ whole))

    return metric


def extraction_table(values: Mapping[str, Any]) -> Table:
    """One row per figure: plainly, by contrast, the difference."""
    differences = values.get("differences") or {}
    rows = []
    for name, title in _SHOWN.items():
        plain = values["plain"][name]
        change = differences.get(name)
        rows.append(
            (
                title,
                _estimate(plain),
                "-" if values.get("contrast") is None else _estimate(values["contrast"][name]),
                "-" if change is None else _signed(Difference(**change)),
            )
        )
    return Table(header=("figure", "plain", "contrast", "contrast minus plain"), rows=tuple(rows))


def to_json(differences: Mapping[str, Difference]) -> dict[str, Any]:
    """Differences as plain JSON values."""
    return {name: asdict(value) for name, value in differences.items()}


def _estimate(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return "-"
    text = f"{value['value']:.3f}"
    return text if value["low"] is None else f"{text} [{value['low']:.3f}, {value['high']:.3f}]"


def _signed(found: Difference) -> str:
    text = f"{found.value:+.4f}"
    return text if found.low is None else f"{text} [{found.low:+.4f}, {found.high:+.4f}]"
