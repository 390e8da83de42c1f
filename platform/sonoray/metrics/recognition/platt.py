"""Scores as probabilities: a logistic curve per class, from validation studies, with its spread.

Platt's scaling with his smoothed targets (J. Platt, "Probabilistic outputs for support vector
machines", 1999): `p = 1 / (1 + exp(-(a s + b)))` of a score s in log-odds. The interval of a
probability is that of curves fitted to draws of validation patients: it says how sure the curve is,
not how sure the class is.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from sonoray.metrics.recognition.binary_rates import Bools
from sonoray.metrics.resampling import Floats

NUM_DRAWS = 200
_STEPS = 25
_RIDGE = 1e-3
"""Keeps the slope finite where validation studies are told apart without an error."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """A class's curve, and those of the draws."""

    slope: float
    offset: float
    drawn: tuple[tuple[float, float], ...]
    """(slope, offset) of each draw."""

    def probabilities(self, scores: Floats, confidence: float = 0.95) -> tuple[Floats, ...]:
        """Probability, lower and upper end (N,) of scores (N,)."""
        slopes, offsets = np.array(self.drawn or [(self.slope, self.offset)]).T
        drawn = _logistic(scores[:, None] * slopes + offsets)
        tail = (1 - confidence) / 2
        low, high = np.quantile(drawn, [tail, 1 - tail], axis=1)
        return _logistic(scores * self.slope + self.offset), low, high


def fit_curve(
    scores: Floats, truth: Bools, patients: Sequence[Hashable], *, seed: int = 0
) -> Curve | None:
    """Fit a class's curve; None where the studies are all positive or all negative.

    Args:
        scores: (N,) log-odds.
        truth: (N,).
        patients: of the N studies, drawn together.
        seed: of the draws.
    """
    if not truth.any() or truth.all():
        return None
    names = {patient: place for place, patient in enumerate(dict.fromkeys(patients))}
    owner = np.array([names[patient] for patient in patients])
    counts = np.random.default_rng(seed).multinomial(
        len(names), np.full(len(names), 1 / len(names)), size=NUM_DRAWS
    )
    weights = np.concatenate([np.ones((1, len(truth))), counts[:, owner]])
    slopes, offsets = _fit(scores, truth, weights)
    ones = weights @ truth
    usable = (ones > 0) & (ones < weights.sum(axis=1))
    return Curve(
        slope=float(slopes[0]),
        offset=float(offsets[0]),
        drawn=tuple(
            (float(a), float(b))
            for a, b, kept in zip(slopes[1:], offsets[1:], usable[1:], strict=True)
            if kept
        ),
    )


def _fit(scores: Floats, truth: Bools, weights: Floats) -> tuple[Floats, Floats]:
    """Slope and offset (R,) by Newton's method, for R rows of weights (R, N)."""
    positives = (weights @ truth)[:, None]
    negatives = weights.sum(axis=1, keepdims=True) - positives
    wanted = np.where(truth, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    centre, spread = scores.mean(), max(float(scores.std()), 1e-9)
    x = (scores - centre) / spread
    a, b = np.zeros(len(weights)), np.log((positives + 1) / (negatives + 1))[:, 0]
    for _ in range(_STEPS):
        p = _logistic(a[:, None] * x + b[:, None])
        error, curve = weights * (p - wanted), weights * p * (1 - p)
        ga, gb = error @ x + _RIDGE * a, error.sum(axis=1)
        haa, hab, hbb = curve @ x**2 + _RIDGE, curve @ x, curve.sum(axis=1) + 1e-9
        determinant = haa * hbb - hab**2 + 1e-12
        step_a = (hbb * ga - hab * gb) / determinant
        step_b = (haa * gb - hab * ga) / determinant
        longest = np.maximum(1.0, np.maximum(np.abs(step_a), np.abs(step_b)))
        a, b = a - step_a / longest, b - step_b / longest  # no step over 1: it cannot run away
    return a / spread, b - a * centre / spread


def _logistic(values: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -50, 50))))
