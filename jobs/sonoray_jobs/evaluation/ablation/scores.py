"""Scores of variants that answered the same questions: what is scored, by whom, beside whom.

A variant's answers to N questions with S seeds are a matrix (N, S) of scores: whether a closed
answer is right, the character F1 of a free one, whether the first image picked shows the finding
(`sonoray.metrics.picks`). The variants of a comparison have the same rows, so that their difference
is a matrix too; means and intervals are those of `sonoray.metrics.seeds`.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sonoray.errors import DataError
from sonoray.metrics import ALL_CLOSED, Bootstrap, Estimate, char_f1
from sonoray.metrics.seeds import estimate_mean
from sonoray.study.contract import Task
from sonoray_jobs.evaluation.predictions import to_pick

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
    variants: tuple[str, ...]
    """Those that have such a score."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """One variant on one group of questions."""

    mean: Estimate
    """Over questions and seeds."""
    by_seed: Mapping[int, float]
    difference: Estimate | None
    """From the reference; None for the reference itself, or where they share no seed."""


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


def make_groups(tables: Mapping[str, Mapping[int, Sequence[Row]]]) -> list[Group]:
    """All closed questions, each closed topic, each free topic, and the picks that are judged.

    Picks are those that every variant which picks at all left an image out for: a variant that
    keeps all images has none.

    Args:
        tables: predictions by variant and seed, all of the same questions.
    """
    rows = next(iter(next(iter(tables.values())).values()))
    everyone = tuple(tables)
    chosen: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        closed = row["task"] == Task.CLOSED.value
        if closed:
            chosen[ALL_CLOSED, ACCURACY].append(number)
        chosen[row["topic"], ACCURACY if closed else CHAR_F1].append(number)
    judged = {name: _judged(list(by_seed.values())) for name, by_seed in tables.items()}
    picking = tuple(name for name in everyone if judged[name])
    if picking and (common := sorted(set.intersection(*(judged[name] for name in picking)))):
        chosen[HITS, HIT] = common
    order = (ACCURACY, CHAR_F1, HIT)
    return [
        Group(
            name=name,
            score=score,
            rows=tuple(positions),
            patients=tuple(rows[number]["patient_key"] for number in positions),
            variants=picking if score == HIT else everyone,
        )
        for (name, score), positions in sorted(
            chosen.items(), key=lambda item: order.index(item[0][1])
        )
    ]


def _judged(seeds: Sequence[Sequence[Row]]) -> set[int]:
    """Positions of the questions of which the picks of all seeds are judged."""
    return set.intersection(
        *({number for number, row in enumerate(rows) if to_pick(row).is_judged} for rows in seeds)
    )


def score_row(row: Row, score: str) -> float:
    """The score of one answer."""
    if score == ACCURACY:
        return float(row["answer"] == row["truth"])
    if score == HIT:
        return to_pick(row).hit
    return char_f1(row["truth"], row["answer"])


def score_variants(
    tables: Mapping[str, Mapping[int, Sequence[Row]]],
    group: Group,
    *,
    reference: str,
    bootstrap: Bootstrap,
) -> dict[str, Score]:
    """Score every variant that the group is of.

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
        if variant in group.variants
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
