"""The risk model judged: rates, what each column is worth, groups, and remarks in words."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sonoray.metrics import Bootstrap
from sonoray.metrics.external.calibration import measure_calibration
from sonoray.metrics.paired import Difference
from sonoray.metrics.resampling import Estimate, estimates
from sonoray.metrics.tables import Table
from sonoray_jobs.evaluation.structured.patient_columns import Columns
from sonoray_jobs.evaluation.structured.risk_bias import (
    Judged,
    group_columns,
    judge_groups,
    risk_metrics,
)
from sonoray_jobs.evaluation.structured.risk_model import CONSTANT, RiskModel

if TYPE_CHECKING:
    from sonoray_jobs.road.risk_config import RiskConfig

RATES = {
    "auc": "AUC",
    "false_negatives": "false negatives",
    "false_positives": "false positives",
    "brier": "Brier",
    "ece": "ECE",
    "mean_probability": "mean risk",
    "observed_share": "observed",
}


_LEAST_GAP = 0.02
"""By how much the risk of a group must be told too low for a remark; less changes no decision."""


def apply_risk(
    model: RiskModel, columns: Columns, truth: Mapping[str, bool], patients: Mapping[str, str]
) -> Judged:
    """Predict studies.

    Args:
        model: fitted on others.
        columns: of all studies.
        truth: by id of the N studies.
        patients: by study id.
    """
    chance = np.array([model.probability(columns.of_study.get(each, {})) for each in truth])
    return Judged(
        ids=list(truth),
        patients=[patients[each] for each in truth],
        truth=np.array(list(truth.values()), np.bool_),
        chance=chance,
        called=chance >= model.threshold,
    )


def judge_risk(
    model: RiskModel,
    judged: Judged,
    columns: Columns,
    everything: Columns,
    settings: "RiskConfig",
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    """Judge predictions.

    Args:
        model: what was fitted.
        judged: N studies of other patients.
        columns: those that it was fitted on.
        everything: also those that only group.
        settings: section `risk`.
        bootstrap: how intervals are made.
    """
    found = estimates(risk_metrics(judged), judged.patients, bootstrap)
    truth = judged.truth.astype(np.int64)
    both = np.stack([1 - judged.chance, judged.chance], axis=1)
    calibration = measure_calibration(both, truth, judged.patients, bootstrap)
    thirds = {name: term.thirds for name, term in model.terms.items() if term.is_number}
    thirds |= {
        name: _thirds(everything, judged.ids, name)
        for name, is_number in everything.is_number.items()
        if is_number and name not in thirds
    }
    groups = group_columns(everything, judged.ids, settings, thirds, columns.left_out)
    records = [columns.of_study.get(each, {}) for each in judged.ids]
    constant = {name: CONSTANT for name in columns.names if name not in model.terms}
    return {
        "outcome": model.outcome,
        "positive": model.positive,
        "num_studies": len(judged.ids),
        "num_patients": len(set(judged.patients)),
        "num_positive": int(judged.truth.sum()),
        "num_missed": int((judged.truth & ~judged.called).sum()),
        "num_train": model.num_studies,
        "num_train_positive": model.num_positive,
        "threshold": model.threshold,
        "penalty": model.penalty,
        "rates": {name: each and each.to_json() for name, each in found.items()},
        "calibration": calibration.to_json(),
        "worth": model.worth(records),
        "weights": {name: dict(term.weights) for name, term in model.terms.items()},
        "left_out": {**columns.left_out, **constant},
        "groups": judge_groups(judged, groups, settings, bootstrap),
    }


def _thirds(columns: Columns, ids: Sequence[str], name: str) -> tuple[float, ...]:
    own = [columns.of_study[each][name] for each in ids if name in columns.of_study.get(each, {})]
    numbers = [float(each) for each in own] or [0.0]
    return tuple(map(float, np.quantile(numbers, [1 / 3, 2 / 3], method="nearest")))


def rates_table(values: Mapping[str, Any]) -> Table:
    """All studies in one row."""
    return Table(
        header=("studies", "positive", *RATES.values()),
        rows=(
            (
                str(values["num_studies"]),
                str(values["num_positive"]),
                *(_rate(values["rates"][name]) for name in RATES),
            ),
        ),
    )


def worth_table(values: Mapping[str, Any]) -> Table:
    """One row per column: how much it moves the log-odds, and which way."""
    rows = []
    for name, worth in values["worth"].items():
        weights = sorted(values["weights"][name].items(), key=lambda each: -each[1])
        told = ", ".join(f"{value} {weight:+.2f}" for value, weight in _ends(weights))
        rows.append((name, f"{worth:.2f}", told))
    return Table(header=("column", "mean contribution", "weights"), rows=tuple(rows))


def _ends(weights: Sequence[tuple[str, float]]) -> Sequence[tuple[str, float]]:
    """The largest and the smallest weights."""
    return weights if len(weights) <= 4 else (*weights[:2], *weights[-2:])


def groups_table(values: Mapping[str, Any]) -> Table:
    """One row per group of each column."""
    rows = []
    for name, groups in values["groups"].items():
        for group in groups:
            own = group["estimates"]
            rows.append(
                (
                    name,
                    group["value"],
                    f"{group['num_questions']} ({group['num_patients']})",
                    str(group["num_positive"]),
                    *(_rate(own[rate]) for rate in
                      ("false_negatives", "auc", "mean_probability", "observed_share")),
                    _signed(group["apart"].get("false_negatives")),
                    group["warning"] or "-",
                )
            )  # fmt: skip
    return Table(
        header=(
            "column",
            "group",
            "studies (patients)",
            "positive",
            "false negatives",
            "AUC",
            "mean risk",
            "observed",
            "false negatives, minus others",
            "warning",
        ),
        rows=tuple(rows),
    )


def remarks(values: Mapping[str, Any]) -> list[str]:
    """Columns that tell nothing, and groups that fare worse than others beyond chance."""
    told = []
    if not any(values["worth"].values()):
        told.append("the columns do not rank left-out training patients: everyone has one risk")
    for name, groups in values["groups"].items():
        for group in groups:
            where = f"{name} {group['value']}"
            missed = group["apart"].get("false_negatives")
            if missed and missed["low"] is not None and missed["low"] > 0:
                told.append(f"{where}: more false negatives than others, {_signed(missed)}")
            rated = group["apart"].get("underrated")
            is_under = rated and rated["low"] is not None and rated["low"] > 0
            if is_under and rated["value"] >= _LEAST_GAP:
                told.append(f"{where}: risk is told too low beside others, {_signed(rated)}")
    return told


def _rate(found: Mapping[str, Any] | None) -> str:
    return "-" if found is None else str(Estimate(**found))


def _signed(difference: Mapping[str, Any] | None) -> str:
    if difference is None:
        return "-"
    found = Difference(**difference)
    text = f"{found.value:+.3f}"
    return text if found.low is None else f"{text} [{found.low:+.3f}, {found.high:+.3f}]"
