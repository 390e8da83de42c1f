"""From scores to what a recognition says: probabilities, figures of both protocols, table, picture.

A study's shares are the softmax of its scores over the classes, as the papers have it; what is
judged is each class's share against all others. Where the validation split knows the truth, its
studies give every class a threshold and a curve that makes a probability of the share.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llava_ultra.recognition.bank import ClassBank
from sonoray.errors import DataError
from sonoray.files.json_files import write_json
from sonoray.metrics import Bootstrap, Estimate
from sonoray.metrics.recognition.figures import RecognitionFigures, Scored, recognition_figures
from sonoray.metrics.recognition.platt import Curve, fit_curve
from sonoray.metrics.tables import Table
from sonoray.study.contract import Study

FIGURES = "recognition.json"
CALIBRATION = "calibration.json"
PICTURE = "recognition.png"
SCORES = "scores.parquet"
"""Stays in the workspace: one row a study."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Studies and their scores (N, C)."""

    studies: Sequence[Study]
    scores: npt.NDArray[np.float64]

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """Softmax over the classes (N, C)."""
        powers = np.exp(self.scores - self.scores.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))

    @property
    def log_odds(self) -> npt.NDArray[np.float64]:
        """Of the shares (N, C): what curves are fitted to."""
        shares = np.clip(self.shares, 1e-12, 1 - 1e-12)
        return np.asarray(np.log(shares) - np.log1p(-shares))


def truth_of(studies: Sequence[Study], bank: ClassBank) -> npt.NDArray[np.bool_] | None:
    """Which classes each study is of (N, C); None where no study says any.

    Raises:
        DataError: a label's value is of no class.
    """
    truth = np.zeros((len(studies), len(bank.classes)), dtype=bool)
    for row, study in enumerate(studies):
        try:
            truth[row, list(bank.classes_of(study.labels))] = True
        except ValueError as error:
            raise DataError(f"study {study.study_id!r}: {error}") from None
    return truth if truth.any() else None


def judge(
    tested: Split, validation: Split | None, bank: ClassBank, bootstrap: Bootstrap
) -> tuple[RecognitionFigures | None, list[Curve | None]]:
    """Figures of the split that is tested, and the classes' curves.

    Studies without a class are scored and not judged: nobody knows what they are.
    """
    known = _known(tested, bank)
    of_validation = None if validation is None else _known(validation, bank)
    curves: list[Curve | None] = [None] * len(bank.classes)
    if of_validation is not None:
        odds = of_validation.scores
        curves = [
            fit_curve(odds[:, number], of_validation.truth[:, number], of_validation.patients)
            for number in range(len(bank.classes))
        ]
    if known is None:
        return None, curves
    return recognition_figures(bank.names, known, of_validation, bootstrap), curves


def _known(split: Split, bank: ClassBank) -> Scored | None:
    truth = truth_of(split.studies, bank)
    if truth is None:
        return None
    rows = np.flatnonzero(truth.any(axis=1)).tolist()
    return Scored(
        scores=split.log_odds[rows],
        truth=truth[rows],
        patients=[split.studies[row].patient_key for row in rows],
    )


def write_scores(
    folder: Path, split: Split, bank: ClassBank, curves: Sequence[Curve | None]
) -> None:
    """Write a row a study: its shares, and probabilities with intervals where there are curves."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    shares, odds = split.shares, split.log_odds
    made = [
        None if curve is None else curve.probabilities(odds[:, number])
        for number, curve in enumerate(curves)
    ]
    rows = []
    for row, study in enumerate(split.studies):
        told = []
        for number, name in enumerate(bank.names):
            entry = {"class": name, "share": float(shares[row, number])}
            if (curve := made[number]) is not None:
                values = (float(value[row]) for value in curve)
                entry |= dict(zip(("probability", "low", "high"), values, strict=True))
            told.append(entry)
        rows.append(
            {
                "study_id": study.study_id,
                "patient_key": study.patient_key,
                "classes": [bank.names[number] for number in bank.classes_of(study.labels)],
                "scores": json.dumps(told, ensure_ascii=False),
            }
        )
    pq.write_table(pa.Table.from_pylist(rows), folder / SCORES)


def write_calibration(
    folder: Path,
    bank: ClassBank,
    curves: Sequence[Curve | None],
    digest: str,
    reading: Mapping[str, str],
) -> None:
    """Write the curves, for a service that is asked about the same classes.

    Args:
        folder: gets the file.
        bank: the classes, with the texts that they were told by.
        curves: of each class.
        digest: of the training that the curves belong to.
        reading: how shares came about that the curves are of; of others they say nothing.
    """
    write_json(
        folder / CALIBRATION,
        {
            "training": digest,
            "reading": dict(reading),
            "bank": bank.model_dump(mode="json"),
            "curves": {
                name: None if curve is None else asdict(curve)
                for name, curve in zip(bank.names, curves, strict=True)
            },
        },
    )


def figures_table(figures: RecognitionFigures) -> Table:
    """One row a class, and the means over classes."""
    rows = [
        (
            each.name,
            f"{each.num_positive} ({each.prevalence:.3f})",
            _cell(each.auc),
            _cell(each.auprc),
            _cell(each.f1),
            _cell(each.accuracy),
            f"{_number(each.best_f1)} / {_number(each.best_accuracy)}",
            f"{each.all_positive_f1:.3f} / {each.constant_accuracy:.3f}",
        )
        for each in figures.classes
    ]
    macro = figures.macro
    best = figures.best_macro
    rows.append(
        (
            "mean over classes",
            f"{figures.num_studies} studies",
            _cell(macro["auc"]),
            _cell(macro["auprc"]),
            _cell(macro["f1"]),
            _cell(macro["accuracy"]),
            f"{_number(best['f1'])} / {_number(best['accuracy'])}",
            "",
        )
    )
    return Table(
        header=(
            "class",
            "positive (share)",
            "AUC",
            "AUPRC",
            "F1",
            "accuracy",
            "best F1 / accuracy",
            "no model F1 / accuracy",
        ),
        rows=tuple(rows),
    )


def plot_figures(figures: RecognitionFigures, path: Path) -> bool:
    """Draw AUC and average precision of each class with intervals, beside chance.

    Returns:
        Whether a class has figures; no file is written otherwise.
    """
    from matplotlib.figure import Figure

    shown = [each for each in figures.classes if each.auc is not None and each.auprc is not None]
    if not shown:
        return False
    figure = Figure(figsize=(7, 1.2 + 0.45 * len(shown)))
    axes = figure.add_subplot()
    for place, (label, kind) in enumerate((("AUC", "auc"), ("average precision", "auprc"))):
        found: list[Estimate] = [getattr(each, kind) for each in shown]
        axes.errorbar(
            [each.value for each in found],
            [row + 0.2 * place for row in range(len(shown))],
            xerr=np.array([_arms(each) for each in found]).T,
            fmt="o",
            markersize=4,
            capsize=2,
            label=label,
        )
    axes.plot(
        [each.prevalence for each in shown],
        [row + 0.2 for row in range(len(shown))],
        "x",
        color="black",
        label="average precision of chance",
    )
    axes.axvline(0.5, color="grey", linewidth=1, linestyle="--")
    # numbers, since matplotlib's own font has no Chinese
    axes.set_yticks(
        range(len(shown)), [f"class {figures.classes.index(each) + 1}" for each in shown]
    )
    axes.set_xlim(-0.02, 1.02)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=120, bbox_inches="tight")
    return True


def headlines(figures: RecognitionFigures, prefix: str) -> Mapping[str, float]:
    """What a run's page in MLflow shows."""
    named = {name: value for name, value in figures.macro.items() if value is not None}
    return {f"{prefix}/{name}": value.value for name, value in named.items()} | {
        f"{prefix}/class_{number + 1}/auc": each.auc.value
        for number, each in enumerate(figures.classes)
        if each.auc is not None
    }


def _arms(value: Estimate) -> tuple[float, float]:
    low, high = value.low, value.high
    return (
        0.0 if low is None else max(0.0, value.value - low),
        0.0 if high is None else max(0.0, high - value.value),
    )


def _cell(value: Estimate | None) -> str:
    return "-" if value is None else str(value)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
