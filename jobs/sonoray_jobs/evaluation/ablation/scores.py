"""Scores of variants that answered the same questions: means over seeds, with intervals.

A variant's answers to N questions with S seeds are a matrix (N, S) of scores in [0, 1]: whether a
closed answer is right, the character F1 of a free one, whether the first image picked shows the
finding. The variants of a comparison have the same rows, so that their difference is a matrix too.

An interval resamples patients (rows) and, independently, seeds (columns), both with replacement,
and takes percentiles of the mean: the bootstrap of crossed random effects (A. B. Owen, "The
pigeonhole bootstrap", Annals of Applied Statistics 1(2), 2007). S seeds show (S - 1) / S of their
variance, so three of them leave the interval somewhat narrow, and one leaves the patients alone.
Differences are of the same question and seed. Where all patients score alike in every seed, the
ends are exact (`sonoray.metrics.resampling.unvaried`).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from sonoray.errors import DataError
from sonoray.metrics import ALL_CLOSED, Bootstrap, Estimate, char_f1
from sonoray.metrics.resampling import Floats, interval, unvaried
from sonoray.study.contract import Task

HITS = "picked image shows the finding"
ACCURACY, CHAR_F1, HIT = "accuracy", "character F1", "hit@1"

Row = Mapping[str, Any]
"""One prediction, as `sonoray evaluate` writes it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Questions that are scored together."""

    name: str
    score: str
    """`ACCURACY`, `CHAR_F1` or `HIT`."""
    rows: tuple[int, ...]
    """Positions among the predictions."""
    patients: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """One variant on one group of questions."""

    mean: Estimate
    """Over questions and seeds."""
    by_seed: Mapping[int, float]
    difference: Estimate | None
    """From the reference; None for the reference itself, or where they share no seed."""


def read_predictions(path: Path) -> list[Row]:
    """Read the predictions of an evaluation."""
    import pyarrow.parquet as pq

    columns = ["study_id", "patient_key", "topic", "task", "truth", "answer"]
    columns += ["showing", "shows_finding"]
    rows: list[Row] = pq.read_table(path, columns=columns).to_pylist()
    return rows


def check_same_questions(tables: Mapping[str, Sequence[Row]]) -> None:
    """Check that all tables answer the same questions in the same order.

    Raises:
        DataError: one of them does not.
    """
    asked = {
        label: [(row["study_id"], row["topic"], row["truth"]) for row in rows]
        for label, rows in tables.items()
    }
    first = next(iter(asked))
    for label, questions in asked.items():
        if questions != asked[first]:
            raise DataError(
                f"{label!r} and {first!r} answered other questions ({len(questions)} and "
                f"{len(asked[first])}), so they cannot be compared; run the ablation again"
            )


def make_groups(rows: Sequence[Row]) -> list[Group]:
    """All closed questions, each closed topic, each free topic, and the picks of known truth."""
    chosen: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        closed = row["task"] == Task.CLOSED.value
        if closed:
            chosen[ALL_CLOSED, ACCURACY].append(number)
        chosen[row["topic"], ACCURACY if closed else CHAR_F1].append(number)
        if row["shows_finding"] >= 0:
            chosen[HITS, HIT].append(number)
    order = (ACCURACY, CHAR_F1, HIT)
    return [
        Group(
            name=name,
            score=score,
            rows=tuple(positions),
            patients=tuple(rows[number]["patient_key"] for number in positions),
        )
        for (name, score), positions in sorted(
            chosen.items(), key=lambda item: order.index(item[0][1])
        )
    ]


def score_row(row: Row, score: str) -> float:
    """The score of one answer."""
    if score == ACCURACY:
        return float(row["answer"] == row["truth"])
    if score == HIT:
        return float(row["shows_finding"])
    return char_f1(row["truth"], row["answer"])


def score_variants(
    tables: Mapping[str, Mapping[int, Sequence[Row]]],
    group: Group,
    *,
    reference: str,
    bootstrap: Bootstrap,
) -> dict[str, Score]:
    """Score every variant on a group.

    Args:
        tables: predictions by variant and seed, all of the same questions.
        group: which of them.
        reference: the variant that the others are compared with; it may be missing.
        bootstrap: draws, confidence and seed of the intervals.
    """
    matrices = {
        variant: {
            seed: np.array([score_row(rows[number], group.score) for number in group.rows])
            for seed, rows in by_seed.items()
        }
        for variant, by_seed in tables.items()
    }
    base = matrices.get(reference, {})
    scores = {}
    for variant, columns in matrices.items():
        paired = [columns[seed] - base[seed] for seed in columns if seed in base]
        scores[variant] = Score(
            mean=estimate_mean(np.stack(list(columns.values()), axis=1), group.patients, bootstrap),
            by_seed={seed: float(column.mean()) for seed, column in columns.items()},
            difference=estimate_mean(
                np.stack(paired, axis=1), group.patients, bootstrap, lowest=-1.0
            )
            if paired and variant != reference
            else None,
        )
    return scores


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
