"""Calibration: whether what a model gives 70 % happens in 70 of 100 questions.

Of two options the probability of the positive one is held against whether it is true; of more
options the probability of the answer is held against whether the answer is right (top-label
calibration; C. Guo et al., "On calibration of modern neural networks", ICML 2017).

Brier score: mean squared distance between the probabilities and the truth, half the sum over the
options, so that it lies in [0, 1] and for two options is (p - y)^2; scikit-learn's
`brier_score_loss(scale_by_half=True)`. ECE: the gap between mean probability and observed share in
bins of equal width (10), weighted by their size. It is biased upwards, and so is its interval: a
draw of few patients misses by chance in every bin. Read it beside the ECE of the internal test,
which has the same bias where that has as many patients.
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
    among,
    estimates,
    mean_metric,
)

NUM_BINS = 10
"""Bins of the reliability diagram and of ECE; with some hundred answers more are mostly noise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bin:
    """The answers of one range of probabilities."""

    num_questions: int
    mean_probability: float
    observed: Estimate
    """Share of them of which the event is true, with an interval over patients."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """How a topic's probabilities agree with the truth."""

    brier: Estimate
    ece: Estimate
    mean_probability: Estimate
    observed_share: Estimate
    """Beside `mean_probability`: calibration in the large."""
    bins: tuple[Bin, ...]
    """The reliability diagram; bins without an answer are left out."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def calibration_metrics(probabilities: Floats, truth: npt.NDArray[np.int64]) -> dict[str, Metric]:
    """Brier score and ECE as weighted metrics.

    Args:
        probabilities: (N, C), rows that sum to 1; of two options the last one is positive.
        truth: (N,) the true option of each answer.
    """
    chance, happened = events(probabilities, truth)
    return {
        "brier": mean_metric(_squared_distances(probabilities, truth)),
        "ece": ece_metric(chance, happened),
    }


def measure_calibration(
    probabilities: Floats,
    truth: npt.NDArray[np.int64],
    patients: Sequence[Hashable],
    bootstrap: Bootstrap,
) -> Calibration:
    """Measure calibration, with intervals clustered by patient.

    Args:
        probabilities: as in `calibration_metrics`.
        truth: as in `calibration_metrics`.
        patients: the patient of each answer.
        bootstrap: how intervals are made.
    """
    chance, happened = events(probabilities, truth)
    numbers = bin_numbers(chance)
    present = np.unique(numbers)
    observed = mean_metric(happened.astype(np.float64))
    metrics = calibration_metrics(probabilities, truth) | {
        "mean_probability": mean_metric(chance),
        "observed_share": observed,
        **{f"bin {number}": among(observed, numbers == number) for number in present},
    }
    found = {name: _defined(each) for name, each in estimates(metrics, patients, bootstrap).items()}
    return Calibration(
        brier=found["brier"],
        ece=found["ece"],
        mean_probability=found["mean_probability"],
        observed_share=found["observed_share"],
        bins=tuple(
            Bin(
                num_questions=int((numbers == number).sum()),
                mean_probability=float(chance[numbers == number].mean()),
                observed=found[f"bin {number}"],
            )
            for number in present
        ),
    )


def events(
    probabilities: Floats, truth: npt.NDArray[np.int64]
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Probability (N,) of each answer's event, and whether it is true (N,).

    The event is the positive option of two; of more, that the likeliest option is right.
    """
    if probabilities.shape[1] == 2:
        return probabilities[:, 1], truth == 1
    return probabilities.max(axis=1), probabilities.argmax(axis=1) == truth


def ece_metric(chance: Floats, happened: npt.NDArray[np.bool_]) -> Metric:
    """Expected calibration error of probabilities (N,) of events (N,), as a weighted metric."""
    members = bin_numbers(chance)[:, None] == np.arange(NUM_BINS)
    gaps = members * (happened - chance)[:, None]

    def metric(weights: Floats) -> Floats:
        with np.errstate(invalid="ignore"):
            return np.asarray(np.abs(weights @ gaps).sum(axis=1) / weights.sum(axis=1))

    return metric


def bin_numbers(chance: Floats) -> npt.NDArray[np.int64]:
    """Bin (N,) of each probability; one on an edge belongs to the lower bin, as in scikit-learn."""
    edges = np.linspace(0, 1, NUM_BINS + 1)
    return np.searchsorted(edges[1:-1], chance)


def _squared_distances(probabilities: Floats, truth: npt.NDArray[np.int64]) -> Floats:
    wanted = np.eye(probabilities.shape[1])[truth]
    return np.asarray(((probabilities - wanted) ** 2).sum(axis=1) / 2)


def _defined(found: Estimate | None) -> Estimate:
    assert found is not None  # every bin has an answer
    return found
