"""Fitting a risk model on training patients: terms, penalty, calibration and threshold.

The penalty is chosen by log-likelihood, the log-odds are calibrated by Platt's curve and the
threshold is set for a sensitivity, all on folds that leave a training patient out.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sonoray.errors import DataError
from sonoray_jobs.evaluation.probing.answer_folds import answer_folds, log_likelihood
from sonoray_jobs.evaluation.structured.patient_columns import Columns, Record
from sonoray_jobs.evaluation.structured.risk_model import (
    CONSTANT,
    NUMBER,
    UNKNOWN,
    RiskModel,
    Term,
    logistic,
)

if TYPE_CHECKING:
    from sonoray.metrics.resampling import Floats
    from sonoray_jobs.road.risk_config import RiskConfig

LEAST = 5
"""Training patients of a value that has a term."""
PENALTIES = (0.01, 0.1, 1.0, 10.0)
"""Inverse strengths (C) to choose from."""
_ITERATIONS = 1000
_ROUNDING = 1e-9
"""So that equal risks, summed in another order, stay at or above a threshold."""


def fit_risk(
    columns: Columns,
    truth: Mapping[str, bool],
    patients: Mapping[str, str],
    settings: "RiskConfig",
) -> RiskModel:
    """Fit on training studies.

    Args:
        columns: those that are learned from.
        truth: by study id of the N training studies, whether it is positive.
        patients: by study id.
        settings: section `risk`.

    Raises:
        DataError: an outcome has too few patients, or no column varies, or one that is asked for.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, cross_val_predict

    from sonoray.metrics.recognition.platt import fit_curve

    ids = list(truth)
    records = [columns.of_study.get(each, {}) for each in ids]
    owners = np.array([patients[each] for each in ids])
    wanted = np.array([truth[each] for each in ids])
    splits = answer_folds(wanted, owners, settings.seed)
    if not splits:
        raise DataError(
            f"outcome {settings.outcome!r}: {int(wanted.sum())} of {len(ids)} training studies are "
            f"{settings.positive!r}; each side needs two patients or more, in whichever fold one "
            "is left out (train.hold_out and train.only leave studies out)"
        )
    terms = {
        name: _empty(name, columns, records, owners)
        for name in _varying(columns, records, settings)
    }
    features = _features(terms, records)
    search = GridSearchCV(
        LogisticRegression(max_iter=_ITERATIONS),
        {"C": PENALTIES},
        scoring=log_likelihood(wanted),
        cv=splits,
    ).fit(features, wanted)
    best = search.best_estimator_
    left_out = cross_val_predict(best, features, wanted, cv=splits, method="decision_function")
    curve = fit_curve(left_out, wanted, list(owners), seed=settings.seed)
    assert curve is not None  # there are both outcomes
    share = float(wanted.mean())
    slope, shift = curve.slope, curve.offset
    if slope <= 0:  # columns that do not rank are no risk turned around: everyone's is the same
        slope, shift = 0.0, math.log(share / (1 - share))
    weights, offset = best.coef_[0] * slope, float(best.intercept_[0] * slope + shift)
    rest = list(weights)
    for name, term in terms.items():
        own = {key: float(rest.pop(0)) for key in term.weights}
        term = term.model_copy(update={"weights": own})
        usual = float(np.mean([term.value(record.get(name)) for record in records]))
        terms[name] = term.model_copy(update={"usual": usual})
    calibrated = np.array([logistic(slope * value + shift) for value in left_out])
    return RiskModel(
        outcome=settings.outcome,
        positive=settings.positive,
        base=offset + sum(term.usual for term in terms.values()),
        terms=terms,
        threshold=_threshold(calibrated, wanted, settings.sensitivity),
        penalty=float(best.C),
        num_studies=len(ids),
        num_positive=int(wanted.sum()),
    )


def _varying(columns: Columns, records: Sequence[Record], settings: "RiskConfig") -> list[str]:
    """The columns that have two values or more among what is learned from."""
    found = {
        name: len({record[name] for record in records if name in record}) > 1
        for name in columns.names
    }
    if same := [name for name in settings.columns if not found.get(name, True)]:
        raise DataError(f"column {same[0]!r} {CONSTANT}; name others in risk.columns")
    if not any(found.values()):
        raise DataError(f"no patient column is left: each {CONSTANT}; give a CSV with --table")
    return [name for name, varies in found.items() if varies]


def _empty(
    name: str, columns: Columns, records: Sequence[Record], owners: npt.NDArray[np.str_]
) -> Term:
    """A column's term before anything is learned: weights of 1 for what has one."""
    known = [(record[name], who) for record, who in zip(records, owners, strict=True)
             if name in record]  # fmt: skip
    if columns.is_number[name]:
        numbers = np.array([float(value) for value, _ in known])
        return Term(
            is_number=True,
            weights={NUMBER: 1.0, UNKNOWN: 1.0},
            centre=float(numbers.mean()),
            spread=float(numbers.std()),
            median=float(np.median(numbers)),
            thirds=tuple(map(float, np.quantile(numbers, [1 / 3, 2 / 3], method="nearest"))),
        )
    of_value: dict[str, set[str]] = {}
    for value, who in known:
        of_value.setdefault(str(value), set()).add(who)
    kept = sorted(value for value, own in of_value.items() if len(own) >= LEAST)
    return Term(is_number=False, weights=dict.fromkeys(kept, 1.0))


def _features(terms: Mapping[str, Term], records: Sequence[Record]) -> "Floats":
    """(N, F): of each record the terms' parts, in their order."""
    rows = []
    for record in records:
        row: list[float] = []
        for name, term in terms.items():
            given = record.get(name)
            if term.is_number:
                known = term.median if given is None else float(given)
                row += [(known - term.centre) / term.spread, float(given is None)]
            else:
                row += [float(given == value) for value in term.weights]
        rows.append(row)
    return np.array(rows, np.float64).reshape(len(records), -1)


def _threshold(chance: "Floats", truth: npt.NDArray[np.bool_], sensitivity: float) -> float:
    """The highest probability that still calls a share of the positives positive."""
    positives = np.sort(chance[truth])[::-1]
    return float(positives[math.ceil(sensitivity * len(positives)) - 1]) - _ROUNDING
