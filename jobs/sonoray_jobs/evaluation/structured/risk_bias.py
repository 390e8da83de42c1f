"""Whom a risk fails: false negatives, AUC and calibration by group, with intervals over patients.

A group is a value of a column (site, device), or a band of a column of numbers (age). Groups are
held against all others together, in the same draws of patients, because a patient may have studies
in a group and outside it (side, device). A group of few positives is named, since nothing can be
said of whom it misses.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sonoray.errors import DataError
from sonoray.metrics import Bootstrap
from sonoray.metrics.class_rates import auc_metric
from sonoray.metrics.external.calibration import calibration_metrics
from sonoray.metrics.external.groups import SMALL, UNKNOWN, metrics_by_group, pool_small
from sonoray.metrics.paired import paired_differences
from sonoray.metrics.resampling import Metric, among, mean_metric
from sonoray_jobs.evaluation.external.subgroups import MOST_VALUES
from sonoray_jobs.evaluation.structured.patient_columns import Columns

if TYPE_CHECKING:
    from sonoray.metrics.resampling import Floats
    from sonoray_jobs.road.risk_config import RiskConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """N studies with an outcome and what was said of them."""

    ids: Sequence[str]
    patients: Sequence[str]
    truth: npt.NDArray[np.bool_]
    chance: "Floats"
    """(N,) probability of the positive outcome."""
    called: npt.NDArray[np.bool_]
    """(N,) called positive."""


def risk_metrics(judged: Judged) -> dict[str, Metric]:
    """Rates of a risk as weighted metrics; those that no study defines are undefined."""
    truth = judged.truth
    both = np.stack([1 - judged.chance, judged.chance], axis=1)
    calibration = calibration_metrics(both, truth.astype(np.int64))
    return {
        "auc": auc_metric(judged.chance[:, None], truth.astype(np.int64)),
        "false_negatives": among(mean_metric((~judged.called).astype(np.float64)), truth),
        "false_positives": among(mean_metric(judged.called.astype(np.float64)), ~truth),
        "brier": calibration["brier"],
        "ece": calibration["ece"],
        "mean_probability": mean_metric(judged.chance),
        "observed_share": mean_metric(truth.astype(np.float64)),
    }


def group_columns(
    columns: Columns,
    ids: Sequence[str],
    settings: "RiskConfig",
    thirds: Mapping[str, Sequence[float]],
    leaks: Collection[str] = (),
) -> dict[str, list[str]]:
    """By column that groups studies: the group of each, empty where it is unknown.

    Args:
        columns: all of them, also those that the risk is not learned from.
        ids: of the judged studies.
        settings: `groups` chooses, `bands` says where groups of numbers begin.
        thirds: by column of numbers, where its thirds begin.
        leaks: columns that tell the outcome; they group studies only where they are asked for.

    Raises:
        DataError: a column that is asked for is unknown, or bands are given for words.
    """
    known = columns.names
    if unknown := [name for name in (*settings.groups, *settings.bands) if name not in known]:
        raise DataError(
            f"risk.groups, risk.bands: no column {unknown[0]!r}; there are "
            f"{', '.join(sorted(known))}"
        )
    if words := [name for name in settings.bands if not columns.is_number[name]]:
        raise DataError(f"risk.bands: column {words[0]!r} holds words, which have no bands")
    found = {}
    for name in settings.groups or (name for name in known if name not in leaks):
        cells = [columns.of_study.get(each, {}).get(name) for each in ids]
        banded = columns.is_number[name] and (
            name in settings.bands or len(set(cells)) > MOST_VALUES
        )
        if banded:
            edges = settings.bands.get(name) or tuple(thirds[name])
            values = ["" if cell is None else band(float(cell), edges) for cell in cells]
        else:
            values = ["" if cell is None else _shown(cell) for cell in cells]
        if settings.groups or 2 <= len(set(values) - {""}) <= MOST_VALUES:
            found[name] = values
    return found


def band(value: float, edges: Sequence[float]) -> str:
    """The group of a number, between edges in rising order."""
    inner = sorted(set(edges))
    place = int(np.searchsorted(inner, value, side="right"))
    if not place:
        return f"<{inner[0]:g}"
    return f">={inner[-1]:g}" if place == len(inner) else f"{inner[place - 1]:g}-{inner[place]:g}"


def _shown(cell: float | str) -> str:
    return f"{cell:g}" if isinstance(cell, float) else cell


def judge_groups(
    judged: Judged,
    groups: Mapping[str, Sequence[str]],
    settings: "RiskConfig",
    bootstrap: Bootstrap,
) -> dict[str, list[dict[str, Any]]]:
    """By column its groups, each with rates, distance from the others, and a warning where few.

    Args:
        judged: N studies.
        groups: by column the group of each of them.
        settings: how small a group may be.
        bootstrap: how intervals are made.
    """
    return {name: _judge(judged, values, settings, bootstrap) for name, values in groups.items()}


def _judge(
    judged: Judged, values: Sequence[str], settings: "RiskConfig", bootstrap: Bootstrap
) -> list[dict[str, Any]]:
    members = np.array(pool_small(values, judged.patients, settings.least_patients))
    patients, compared = np.array(judged.patients), _compared(judged)
    rows = []
    for group in metrics_by_group(
        risk_metrics(judged),
        values,
        judged.patients,
        bootstrap,
        least_patients=settings.least_patients,
    ):
        inside = members == group.value
        num_positive = int(judged.truth[inside].sum())
        row = {
            **group.to_json(),
            "num_positive": num_positive,
            "num_missed": int((judged.truth & ~judged.called)[inside].sum()),
            "warning": _warning(num_positive, int(inside.sum()) - num_positive, settings),
            "apart": {},
        }
        # of one patient alone there is no interval
        can_differ = all(len(set(patients[side])) > 1 for side in (inside, ~inside))
        if group.value not in (SMALL, UNKNOWN) and can_differ:
            own, rest = (
                {name: among(metric, side) for name, metric in compared.items()}
                for side in (inside, ~inside)
            )
            found = paired_differences(rest, own, judged.patients, bootstrap)
            row["apart"] = {rate: asdict(each) for rate, each in found.items()}
        rows.append(row)
    return rows


def _compared(judged: Judged) -> dict[str, Metric]:
    metrics = risk_metrics(judged)
    gap = mean_metric(judged.truth - judged.chance)
    return {name: metrics[name] for name in ("auc", "false_negatives")} | {"underrated": gap}


def _warning(num_positive: int, num_negative: int, settings: "RiskConfig") -> str:
    few = settings.least_positives
    if num_positive < few:
        return f"{num_positive} positive, fewer than {few}: whom it misses is not known"
    if num_negative < few:
        return f"{num_negative} negative, fewer than {few}: AUC says little"
    return ""
