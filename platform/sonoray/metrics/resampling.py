"""Confidence intervals by resampling patients, for many draws at once.

A patient's images and questions agree with each other, so they are drawn together or not at all:
drawing answers one by one would give intervals that are too narrow. A draw of P patients with
replacement is a row of counts, and every metric here is a function of such weights: with weights of
one it is the estimate, with the counts of R draws it is R resampled values, without a Python loop.
2,000 draws of an AUC over 1,000 answers take 0.4 s beside other work on 2 CPU cores, where a loop
over `sklearn.metrics.roc_auc_score` takes 4.6 s; the values are tested to equal scikit-learn's.

No draw can show what no patient shows: where all patients score alike, as where every answer is
right, all draws do and their interval would have no width. Its ends are then exact (`unvaried`).
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from sonoray.config.model import Config

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
    """A metric with its percentile interval, which is exact where no draw differs."""

    value: float
    low: float | None
    """Lower end; None where one patient alone, or no draw, could give an interval."""
    high: float | None
    num_undefined: int = 0
    """Draws that left the metric undefined (one class alone) and were skipped."""

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def mean_metric(values: Floats) -> Metric:
    """Weighted mean of values (N,), one per answer; undefined where all weights are 0."""

    def metric(weights: Floats) -> Floats:
        with np.errstate(invalid="ignore"):
            return np.asarray((weights @ values) / weights.sum(axis=1))

    return metric


def among(metric: Metric, member: npt.NDArray[np.bool_]) -> Metric:
    """The metric of the answers (N,) that are `member` alone; draws without any are undefined."""
    mask = member.astype(np.float64)

    def restricted(weights: Floats) -> Floats:
        return metric(weights * mask)

    return restricted


def estimate(metric: Metric, patients: Sequence[Hashable], bootstrap: Bootstrap) -> Estimate | None:
    """Compute one metric and its interval; see `estimates`."""
    return estimates({"metric": metric}, patients, bootstrap)["metric"]


def estimates(
    metrics: Mapping[str, Metric], patients: Sequence[Hashable], bootstrap: Bootstrap
) -> dict[str, Estimate | None]:
    """Compute metrics and their intervals, clustered by patient, from the same draws.

    Args:
        metrics: the metrics by name, as functions of weights.
        patients: the patient of each of the N answers.
        bootstrap: number of draws, confidence and seed.

    The metrics lie between 0 and 1, as far as the ends of intervals without a varying draw go.

    Returns:
        The estimates; None for a metric that the whole sample leaves undefined.
    """
    draws = resample(metrics, patients, bootstrap)
    found: dict[str, Estimate | None] = {}
    for name, metric in metrics.items():
        value = float(metric(np.ones((1, len(patients))))[0])
        if np.isnan(value):
            found[name] = None
            continue
        low, high = interval(draws[name], bootstrap.confidence)
        if low is not None and low == high == value:
            low, high = unvaried(value, _num_judged(metric, patients), bootstrap.confidence)
        num_undefined = int(np.isnan(draws[name]).sum())
        found[name] = Estimate(value=value, low=low, high=high, num_undefined=num_undefined)
    return found


def interval(draws: Floats, confidence: float) -> tuple[float | None, float | None]:
    """Percentile interval of the draws that are defined; two None where none is."""
    defined = draws[~np.isnan(draws)]
    if not defined.size:
        return None, None
    tail = (1 - confidence) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)


def unvaried(
    value: float, num_patients: int, confidence: float, *, lowest: float = 0.0
) -> tuple[float | None, float | None]:
    """Exact interval of a mean score that is the same for every patient.

    None of P patients scored otherwise, so with the given confidence at most a share
    `1 - ((1 - c) / 2) ** (1 / P)` of all patients does (C. J. Clopper and E. S. Pearson, "The use
    of confidence or fiducial limits", Biometrika 26(4), 1934), and these by as much as can be.

    Args:
        value: the score that all share.
        num_patients: number of patients that were judged.
        confidence: as in `Bootstrap`.
        lowest: the least possible score: 0, or -1 for a difference. The greatest is 1.

    Returns:
        The ends; two None where fewer than two patients were judged.
    """
    if num_patients < 2:
        return None, None
    others = 1 - ((1 - confidence) / 2) ** (1 / num_patients)
    return value - others * (value - lowest), value + others * (1 - value)


def resample(
    metrics: Mapping[str, Metric], patients: Sequence[Hashable], bootstrap: Bootstrap
) -> dict[str, Floats]:
    """Values (R,) of each metric in R draws of patients; (0,) where there is one patient alone."""
    owner = _number(patients)
    num_patients = int(owner.max(initial=-1)) + 1
    if num_patients < 2:
        return {name: np.empty(0) for name in metrics}
    generator = np.random.default_rng(bootstrap.seed)
    shares = np.full(num_patients, 1 / num_patients)
    draws = (
        generator.multinomial(num_patients, shares, size=size)
        for size in _block_sizes(bootstrap.num_resamples, owner.size)
    )
    return _evaluate(metrics, owner, draws)


def _num_judged(metric: Metric, patients: Sequence[Hashable]) -> int:
    """Number of patients whose answers alone define a metric."""
    owner = _number(patients)
    num_patients = int(owner.max()) + 1
    alone, start = [], 0
    for size in _block_sizes(num_patients, owner.size):
        alone.append(np.eye(size, num_patients, k=start))
        start += size
    values = _evaluate({"metric": metric}, owner, alone)["metric"]
    return int((~np.isnan(values)).sum())


def _number(patients: Sequence[Hashable]) -> npt.NDArray[np.int64]:
    """Number patients from 0, in the order in which they appear."""
    numbers = {patient: number for number, patient in enumerate(dict.fromkeys(patients))}
    return np.array([numbers[patient] for patient in patients], dtype=np.int64)


def _block_sizes(num_draws: int, num_answers: int) -> list[int]:
    """Split draws into blocks whose weights fit `_MAX_WEIGHTS`."""
    block = max(1, _MAX_WEIGHTS // num_answers)
    return [min(block, num_draws - start) for start in range(0, num_draws, block)]


def _evaluate(
    metrics: Mapping[str, Metric],
    owner: npt.NDArray[np.int64],
    counts: Iterable[npt.NDArray[np.int64] | Floats],
) -> dict[str, Floats]:
    """Values of metrics where patients (R, P) are counted so often, block by block."""
    values: dict[str, list[Floats]] = {name: [] for name in metrics}
    for block in counts:
        weights = block[:, owner].astype(np.float64)
        for name, metric in metrics.items():
            values[name].append(metric(weights))
    return {name: np.concatenate(blocks) for name, blocks in values.items()}
