"""Decision curve: whether acting on the model does more good than treating all or nobody.

A. J. Vickers and E. B. Elkin, "Decision curve analysis", Medical Decision Making 26(6), 2006. Who
acts where the probability of the positive option reaches t values a false alarm at t / (1 - t) of a
finding. Net benefit, in findings per question: share of true positives, minus that much for each
share of false positives. Nobody treated: 0. It depends on how common the positive option is, so on
a set that was enriched with findings it is that of the set and not of a practice.

For one threshold net benefit is a mean over the answers, so the intervals over patients are those
of `mean_metric`. It can be negative; where no draw differs the interval has no width.
"""

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sonoray.metrics.resampling import (
    Bootstrap,
    Estimate,
    Floats,
    Metric,
    interval,
    mean_metric,
    resample,
)

THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""0.05 to 0.95."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecisionPoint:
    """One threshold probability."""

    threshold: float
    model: Estimate
    """Net benefit of acting on the model."""
    treat_all: float
    """Net benefit of acting always; never acting has 0."""
    gain: Estimate
    """The model's net benefit minus that of the better of always and never."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def decision_curve(
    probability: Floats,
    is_positive: npt.NDArray[np.bool_],
    patients: Sequence[Hashable],
    bootstrap: Bootstrap,
) -> tuple[DecisionPoint, ...]:
    """Compute the net benefit at `THRESHOLDS`, with intervals clustered by patient.

    Args:
        probability: (N,) of the positive option.
        is_positive: (N,) whether it is true.
        patients: the patient of each answer.
        bootstrap: how intervals are made.
    """
    always = np.ones_like(is_positive)
    metrics: dict[str, Metric] = {}
    for threshold in THRESHOLDS:
        model = net_benefit_metric(probability >= threshold, is_positive, threshold)
        everyone = net_benefit_metric(always, is_positive, threshold)
        metrics |= {
            f"model {threshold}": model,
            f"all {threshold}": everyone,
            f"gain {threshold}": _gain(model, everyone),
        }
    draws = resample(metrics, patients, bootstrap)
    ones = np.ones((1, len(patients)))
    values = {name: float(metric(ones)[0]) for name, metric in metrics.items()}

    def estimate(name: str) -> Estimate:
        low, high = interval(draws[name], bootstrap.confidence)
        return Estimate(value=values[name], low=low, high=high)

    return tuple(
        DecisionPoint(
            threshold=threshold,
            model=estimate(f"model {threshold}"),
            treat_all=values[f"all {threshold}"],
            gain=estimate(f"gain {threshold}"),
        )
        for threshold in THRESHOLDS
    )


def net_benefit_metric(
    acts: npt.NDArray[np.bool_], is_positive: npt.NDArray[np.bool_], threshold: float
) -> Metric:
    """Net benefit of acting on some answers (N,), as a weighted metric."""
    price = threshold / (1 - threshold)
    return mean_metric(np.where(acts, np.where(is_positive, 1.0, -price), 0.0))


def _gain(model: Metric, everyone: Metric) -> Metric:
    def metric(weights: Floats) -> Floats:
        return model(weights) - np.maximum(everyone(weights), 0)

    return metric
