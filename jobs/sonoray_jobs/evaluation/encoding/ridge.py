"""Encoding models: how well a linear map of some states predicts a number of new patients.

A ridge regression is fitted on four fifths of the patients and asked about the last fifth, for each
fifth in turn; its penalty is the one that predicts best inside the four fifths, by patients again.
What is scored is the correlation of prediction and truth, both less the mean of the studies that
were learned from, so that a map that knows nothing has a correlation of about 0.

What a target repeats of itself limits what anything can predict of it. With several measurements of
a study its reliability is `(MSB - MSW) / MSB` (the intraclass correlation of their mean, one way,
Shrout and Fleiss 1979), and the noise ceiling, the correlation that perfect knowledge would have,
is its square root.

Axes: S studies, C channels, T targets, A penalties.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sonoray.metrics.resampling import Floats, Metric

PENALTIES = tuple(10.0**power for power in range(-1, 6))
"""To choose from: of standardised channels, in units of a study."""
FOLDS = 5
_INNER = 4
_LEAST_DEVIATION = 1e-8


def predict_left_out(
    states: np.ndarray, targets: Floats, patients: Sequence[str], seed: int = 0
) -> tuple[Floats, Floats]:
    """Predictions of each study by maps that did not see its patient.

    Args:
        states: (S, C).
        targets: (S, T), without gaps.
        patients: (S,).
        seed: of the folds.

    Returns:
        Predictions and targets (S, T), both less the mean of what was learned from.
    """
    folds = patient_folds(patients, FOLDS, seed)
    predicted, centred = np.zeros_like(targets), np.zeros_like(targets)
    values = np.asarray(states, np.float64)
    for fold in range(FOLDS):
        test = folds == fold
        if not test.any():
            continue
        learned = ~test
        own = [patient for patient, is_own in zip(patients, learned, strict=True) if is_own]
        best = _best_penalties(values[learned], targets[learned], own, seed)
        found = _predict(values[learned], targets[learned], values[test])  # (A, S', T)
        for target, penalty in enumerate(best):
            predicted[test, target] = found[penalty, :, target]
        centred[test] = targets[test] - targets[learned].mean(axis=0)
    return predicted, centred


def patient_folds(patients: Sequence[str], number: int, seed: int) -> npt.NDArray[np.int64]:
    """The fold (S,) of each study: one for all studies of a patient, of about the same size."""
    known = sorted(set(patients))
    order = np.random.default_rng(seed).permutation(len(known))
    fold_of = {known[place]: rank % number for rank, place in enumerate(order)}
    return np.array([fold_of[patient] for patient in patients])


def correlation_metric(predicted: Floats, truth: Floats) -> Metric:
    """Weighted correlation of two columns (S,); 0 where one of them does not vary."""

    def metric(weights: Floats) -> Floats:
        total = weights.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            one, other = (weights @ each / total for each in (predicted, truth))
            both = weights @ (predicted * truth) / total - one * other
            spread = (weights @ predicted**2 / total - one**2) * (
                weights @ truth**2 / total - other**2
            )
            found = both / np.sqrt(np.maximum(spread, 0))
        return np.where(np.isfinite(found), found, 0.0)

    return metric


def noise_ceiling(measured: Sequence[Sequence[float]]) -> float | None:
    """The correlation that perfect knowledge has with the mean of measurements.

    Args:
        measured: of each study what was measured.

    Returns:
        None where fewer than two studies were measured twice; 0 where studies differ no more than
        measurements of one do.
    """
    repeated = [np.asarray(own, np.float64) for own in measured if len(own) > 1]
    if len(repeated) < 2:
        return None
    counts = np.array([len(own) for own in repeated])
    means = np.array([own.mean() for own in repeated])
    within = sum(float(((own - own.mean()) ** 2).sum()) for own in repeated)
    within /= float((counts - 1).sum())
    grand = float((counts * means).sum() / counts.sum())
    between = float((counts * (means - grand) ** 2).sum()) / (len(repeated) - 1)
    if between <= 0:
        return 0.0
    return float(np.sqrt(max(0.0, (between - within) / between)))


def _best_penalties(
    values: Floats, targets: Floats, patients: Sequence[str], seed: int
) -> list[int]:
    """For each target the penalty with the least squared error on left-out patients."""
    folds = patient_folds(patients, _INNER, seed + 1)
    errors = np.zeros((len(PENALTIES), targets.shape[1]))
    for fold in range(_INNER):
        test = folds == fold
        if test.any() and not test.all():
            truth = targets[test] - targets[~test].mean(axis=0)
            found = _predict(values[~test], targets[~test], values[test])
            errors += ((found - truth) ** 2).sum(axis=1)
    best: list[int] = errors.argmin(axis=0).tolist()
    return best


def _predict(learned: Floats, targets: Floats, asked: Floats) -> Floats:
    """Predictions (A, S', T) less the mean of the targets, one for each penalty."""
    mean, deviation = learned.mean(axis=0), learned.std(axis=0)
    scale = np.where(deviation > _LEAST_DEVIATION, deviation, np.inf)  # no word of a dead channel
    left, values, right = np.linalg.svd((learned - mean) / scale, full_matrices=False)
    inner = left.T @ (targets - targets.mean(axis=0))
    turned = ((asked - mean) / scale) @ right.T
    penalties = np.array(PENALTIES)[:, None]
    shrunk = values / (values**2 + penalties)  # (A, R)
    return np.asarray(np.einsum("sr,ar,rt->ast", turned, shrunk, inner))
