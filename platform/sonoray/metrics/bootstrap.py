"""Confidence intervals by resampling patients, for many draws at once.

A patient's images and questions agree with each other, so they are drawn together or not at all:
drawing answers one by one would give intervals that are too narrow. A draw of P patients with
replacement is a row of counts, and every metric here is a function of such weights: with weights of
one it is the estimate, with the counts of R draws it is R resampled values, without a Python loop.
2,000 draws of an AUC over 1,000 answers take 0.4 s beside other work on 2 CPU cores, where a loop
over `sklearn.metrics.roc_auc_score` takes 4.6 s; the values are tested to equal scikit-learn's.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from sonoray.config import Config

Floats = npt.NDArray[np.float64]
Metric = Callable[[Floats], Floats]
"""Weights (R, N) of N answers in R draws -> values (R,), NaN where a draw does not define it."""

_MAX_WEIGHTS = 4_000_000
"""Weights held at once (32 MB): larger resamples are computed in blocks."""


class Bootstrap(Config):
    """How intervals are made."""

    num_resamples: int = Field(default=2000, ge=1000)
    """Draws of patients; the ends of an interval need 1,000 or more."""
    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Share of the draws between the ends."""
    seed: int = 0
    """Equal seeds give equal intervals."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A metric with its percentile interval."""

    value: float
    low: float | None
    """Lower end; None where one patient alone, or no draw, could give an interval."""
    high: float | None
    num_undefined: int = 0
    """Draws that left the metric undefined (one class alone) and were skipped."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def estimate(metric: Metric, patients: Sequence[Hashable], bootstrap: Bootstrap) -> Estimate | None:
    """Compute a metric and its interval, clustered by patient.

    Args:
        metric: the metric as a function of weights.
        patients: the patient of each of the N answers.
        bootstrap: number of draws, confidence and seed.

    Returns:
        The estimate, or None where the whole sample leaves the metric undefined.
    """
    value = float(metric(np.ones((1, len(patients))))[0])
    if np.isnan(value):
        return None
    numbers = {patient: number for number, patient in enumerate(dict.fromkeys(patients))}
    if len(numbers) < 2:
        return Estimate(value=value, low=None, high=None)
    owner = np.array([numbers[patient] for patient in patients])
    values = _resampled(metric, owner, len(numbers), bootstrap)
    defined = values[~np.isnan(values)]
    if not defined.size:
        return Estimate(value=value, low=None, high=None, num_undefined=values.size)
    tail = (1 - bootstrap.confidence) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return Estimate(
        value=value,
        low=float(low),
        high=float(high),
        num_undefined=int(values.size - defined.size),
    )


def _resampled(
    metric: Metric, owner: npt.NDArray[np.int64], num_patients: int, bootstrap: Bootstrap
) -> Floats:
    generator = np.random.default_rng(bootstrap.seed)
    block = max(1, _MAX_WEIGHTS // max(owner.size, num_patients))
    values = []
    for start in range(0, bootstrap.num_resamples, block):
        size = min(block, bootstrap.num_resamples - start)
        counts = generator.multinomial(
            num_patients, np.full(num_patients, 1 / num_patients), size=size
        )
        values.append(metric(counts[:, owner].astype(np.float64)))
    return np.concatenate(values)
