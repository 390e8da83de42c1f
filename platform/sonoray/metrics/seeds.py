"""Means over training seeds, with intervals over patients and seeds together.

The scores of N questions with S seeds are a matrix (N, S) in [0, 1], or in [-1, 1] where two models
are subtracted question by question and seed by seed. An interval resamples patients (rows) and,
independently, seeds (columns), both with replacement, and takes percentiles of the mean: the
bootstrap of crossed random effects (A. B. Owen, "The pigeonhole bootstrap", Annals of Applied
Statistics 1(2), 2007). S seeds show (S - 1) / S of their variance, so three of them leave the
interval somewhat narrow, and one leaves the patients alone. Where all patients score alike in every
seed, the ends are exact (`sonoray.metrics.resampling.unvaried`).
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from sonoray.metrics import Bootstrap, Estimate
from sonoray.metrics.resampling import Floats, interval, unvaried


def estimate_mean(
    scores: Floats, patients: Sequence[str], bootstrap: Bootstrap, *, lowest: float = 0.0
) -> Estimate:
    """Mean of scores (N, S) of N questions and S seeds, with its interval.

    Args:
        scores: one column per seed.
        patients: the patient of each question; a patient's questions are drawn together.
        bootstrap: draws, confidence and seed.
        lowest: the least possible score: 0, or -1 for differences of scores.
    """
    names, owner = np.unique(np.array(patients), return_inverse=True)
    num_patients, num_seeds = len(names), scores.shape[1]
    if num_patients < 2:
        return Estimate(value=float(scores.mean()), low=None, high=None)
    sums = np.zeros((num_patients, num_seeds))
    np.add.at(sums, owner, scores)
    sizes = np.bincount(owner).astype(np.float64)
    drawn_patients, drawn_seeds = _draws(num_patients, num_seeds, bootstrap)
    totals = ((drawn_patients @ sums) * drawn_seeds).sum(axis=1) / num_seeds
    value = float(scores.mean())
    low, high = interval(totals / (drawn_patients @ sizes), bootstrap.confidence)
    if np.ptp(scores) == 0:
        low, high = unvaried(value, num_patients, bootstrap.confidence, lowest=lowest)
    return Estimate(value=value, low=low, high=high)


@lru_cache(maxsize=4)
def _draws(num_patients: int, num_seeds: int, bootstrap: Bootstrap) -> tuple[Floats, Floats]:
    """How often each patient (R, P) and each seed (R, S) is drawn; the same for all variants."""
    generator = np.random.default_rng(bootstrap.seed)

    def draw(number: int) -> Floats:
        shares = np.full(number, 1 / number)
        return generator.multinomial(number, shares, bootstrap.num_resamples).astype(np.float64)

    return draw(num_patients), draw(num_seeds)
