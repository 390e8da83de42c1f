"""What a recognition is judged by, under both protocols.

- The papers': the threshold of best F1 is chosen on the very scores that are judged. It is shown to
  be comparable, without intervals, and it is too good.
- The honest one: the threshold comes from the validation split, and intervals are clustered by
  patient. Beside it stand what needs no model: the share of positives, which is the average
  precision of chance, the F1 of calling all studies positive, and the accuracy of the more frequent
  answer.

A class without a positive study, or without a negative one, has no figures and takes no part in
means; a reader sees a dash.
"""

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from sonoray.metrics.class_rates import auc_metric
from sonoray.metrics.recognition.binary_rates import (
    Bools,
    accuracy_at,
    average_precision,
    best_f1_threshold,
    f1_at,
)
from sonoray.metrics.resampling import (
    Bootstrap,
    Estimate,
    Floats,
    Metric,
    estimates,
    interval,
    resample,
)

MACRO = ("auc", "auprc", "f1", "accuracy")
"""What is averaged over classes, with an interval."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """The studies of a split, and what was recognised in them."""

    scores: Floats
    """(N, C), higher is likelier."""
    truth: Bools
    """(N, C): a study's classes."""
    patients: Sequence[Hashable]
    """Of the N studies."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassFigures:
    """One class; None where the split, or the validation split, leaves a figure undefined."""

    name: str
    num_positive: int
    prevalence: float
    auc: Estimate | None
    auprc: Estimate | None
    best_f1: float | None
    """Of the papers' protocol: at the threshold that is best for these very studies."""
    best_accuracy: float | None
    threshold: float | None
    """Of best F1 on the validation split."""
    f1: Estimate | None
    accuracy: Estimate | None
    all_positive_f1: float
    constant_accuracy: float


@dataclass(frozen=True, kw_only=True, slots=True)
class RecognitionFigures:
    """All classes, and the plain means over those that have a figure."""

    num_studies: int
    num_patients: int
    classes: tuple[ClassFigures, ...]
    macro: dict[str, Estimate | None] = field(default_factory=dict)
    """By name in `MACRO`."""
    best_macro: dict[str, float | None] = field(default_factory=dict)
    """`f1` and `accuracy` of the papers' protocol."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def recognition_figures(
    names: Sequence[str],
    tested: Scored,
    validation: Scored | None,
    bootstrap: Bootstrap,
) -> RecognitionFigures:
    """Judge the scores of C classes.

    Args:
        names: of the classes.
        tested: the split that is judged.
        validation: where thresholds come from; None leaves the honest F1 and accuracy out.
        bootstrap: how intervals are made.
    """
    metrics: dict[str, Metric] = {}
    thresholds: list[float | None] = []
    for number in range(len(names)):
        scores, truth = tested.scores[:, number], tested.truth[:, number]
        threshold = None
        if validation is not None:
            threshold = best_f1_threshold(validation.scores[:, number], validation.truth[:, number])
        thresholds.append(threshold)
        if not truth.any() or truth.all():
            continue
        metrics[f"auc {number}"] = auc_metric(scores[:, None], truth.astype(np.int64))
        metrics[f"auprc {number}"] = average_precision(scores, truth)
        if threshold is not None:
            metrics[f"f1 {number}"] = f1_at(scores, truth, threshold)
            metrics[f"accuracy {number}"] = accuracy_at(scores, truth, threshold)
    for kind in MACRO:
        own = [metric for name, metric in metrics.items() if name.startswith(f"{kind} ")]
        if own:
            metrics[kind] = _mean_of(own)
    found = estimates(metrics, tested.patients, bootstrap)
    classes = tuple(
        _class_figures(name, number, tested, thresholds[number], found)
        for number, name in enumerate(names)
    )
    return RecognitionFigures(
        num_studies=len(tested.truth),
        num_patients=len(set(tested.patients)),
        classes=classes,
        macro={kind: found.get(kind) for kind in MACRO},
        best_macro={
            "f1": _plain_mean([each.best_f1 for each in classes]),
            "accuracy": _plain_mean([each.best_accuracy for each in classes]),
        },
    )


def mean_over_seeds(
    scores: Sequence[Floats],
    truth: Bools,
    classes: Sequence[int],
    patients: Sequence[Hashable],
    bootstrap: Bootstrap,
) -> Estimate:
    """Mean AUC of some classes over trainings, with an interval over patients and seeds.

    Args:
        scores: (N, C) of each training.
        truth: (N, C).
        classes: numbers of classes that have both positives and negatives.
        patients: of the N studies.
        bootstrap: how the interval is made; seeds are drawn beside patients.
    """
    metrics = {
        str(place): _mean_of(
            [auc_metric(each[:, [n]], truth[:, n].astype(np.int64)) for n in classes]
        )
        for place, each in enumerate(scores)
    }
    value = float(np.mean([metric(np.ones((1, len(truth))))[0] for metric in metrics.values()]))
    drawn = np.stack(list(resample(metrics, patients, bootstrap).values()), axis=1)  # (R, S)
    count = len(scores)
    generator = np.random.default_rng(bootstrap.seed)
    seeds = generator.multinomial(count, np.full(count, 1 / count), size=len(drawn)) / count
    low, high = interval((drawn * seeds).sum(axis=1), bootstrap.confidence)
    return Estimate(value=value, low=low, high=high)


def _class_figures(
    name: str,
    number: int,
    tested: Scored,
    threshold: float | None,
    found: dict[str, Estimate | None],
) -> ClassFigures:
    scores, truth = tested.scores[:, number], tested.truth[:, number]
    share = float(truth.mean()) if len(truth) else 0.0
    best_f1 = best_accuracy = None
    best = best_f1_threshold(scores, truth)
    if best is not None and not truth.all():
        ones = np.ones((1, len(truth)))
        best_f1 = float(f1_at(scores, truth, best)(ones)[0])
        best_accuracy = float(accuracy_at(scores, truth, best)(ones)[0])
    return ClassFigures(
        name=name,
        num_positive=int(truth.sum()),
        prevalence=share,
        auc=found.get(f"auc {number}"),
        auprc=found.get(f"auprc {number}"),
        best_f1=best_f1,
        best_accuracy=best_accuracy,
        threshold=threshold,
        f1=found.get(f"f1 {number}"),
        accuracy=found.get(f"accuracy {number}"),
        all_positive_f1=2 * share / (1 + share),
        constant_accuracy=max(share, 1 - share),
    )


def _mean_of(metrics: Sequence[Metric]) -> Metric:
    """The mean over classes; a draw that leaves one class undefined is left out."""

    def metric(weights: Floats) -> Floats:
        return np.asarray(np.mean([each(weights) for each in metrics], axis=0))

    return metric


def _plain_mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None
