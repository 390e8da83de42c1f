"""Risk and coverage: how often answers are wrong where the model may leave the unsure ones out.

Answers are ordered by the probability of the answer. At coverage c only the surest share c is
answered, and the risk is the share of wrong answers among them (Y. Geifman and R. El-Yaniv,
"Selective classification for deep neural networks", NeurIPS 2017). Equally sure answers are
answered in no order: a coverage that cuts through them takes the same share of each.

The area is the mean, over all answers, of the risk among those at least as sure (AURC). It depends
on the error rate as well as on the order; a random order has the error rate as its area.
"""

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sonoray.metrics.resampling import Bootstrap, Estimate, Floats, Metric, estimates

COVERAGES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)


@dataclass(frozen=True, kw_only=True, slots=True)
class RiskPoint:
    """One coverage."""

    coverage: float
    risk: Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class RiskCoverage:
    """How risk falls with coverage."""

    area: Estimate
    points: tuple[RiskPoint, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def risk_coverage(
    confidence: Floats,
    is_wrong: npt.NDArray[np.bool_],
    patients: Sequence[Hashable],
    bootstrap: Bootstrap,
) -> RiskCoverage:
    """Compute the risk at `COVERAGES` and the area, with intervals clustered by patient.

    Args:
        confidence: (N,) probability of each answer.
        is_wrong: (N,) whether it is not the truth.
        patients: the patient of each answer.
        bootstrap: how intervals are made.
    """
    levels = _Levels(confidence, is_wrong)
    metrics = {"area": _area(levels)}
    metrics |= {f"risk {coverage}": _risk(levels, coverage) for coverage in COVERAGES}
    found: dict[str, Estimate] = {}
    for name, each in estimates(metrics, patients, bootstrap).items():
        assert each is not None  # there is an answer
        found[name] = each
    return RiskCoverage(
        area=found["area"],
        points=tuple(
            RiskPoint(coverage=coverage, risk=found[f"risk {coverage}"]) for coverage in COVERAGES
        ),
    )


class _Levels:
    """The answers in the order of confidence, equally sure ones together."""

    def __init__(self, confidence: Floats, is_wrong: npt.NDArray[np.bool_]) -> None:
        self._order = np.argsort(-confidence, kind="stable")
        self._wrong = is_wrong[self._order].astype(np.float64)
        levels = -confidence[self._order]
        self._starts = np.flatnonzero(np.diff(levels, prepend=-np.inf))

    def sums(self, weights: Floats) -> tuple[Floats, Floats]:
        """From weights (R, N) the weight down to each level (R, G), and what of it is wrong."""
        ranked = weights[:, self._order]
        answered = np.add.reduceat(ranked, self._starts, axis=1)
        wrong = np.add.reduceat(ranked * self._wrong, self._starts, axis=1)
        return answered.cumsum(axis=1), wrong.cumsum(axis=1)


def _risk(levels: _Levels, coverage: float) -> Metric:
    def metric(weights: Floats) -> Floats:
        answered, wrong = levels.sums(weights)
        taken = coverage * answered[:, -1]
        risks = np.array(
            [
                np.interp(limit, [0.0, *own], [0.0, *errors])
                for limit, own, errors in zip(taken, answered, wrong, strict=True)
            ]
        )
        with np.errstate(invalid="ignore"):
            return np.asarray(risks / taken)

    return metric


def _area(levels: _Levels) -> Metric:
    def metric(weights: Floats) -> Floats:
        answered, wrong = levels.sums(weights)
        own = np.diff(answered, axis=1, prepend=0.0)
        with np.errstate(invalid="ignore"):
            risks = np.where(answered > 0, wrong / answered, 0.0)
            return np.asarray((own * risks).sum(axis=1) / answered[:, -1])

    return metric
