"""Which part of a dataset each study is in, and what the user must know of the parts.

A draw by patient, or the split that the set was published with (`RawStudy.split`), where the source
was asked for it. A published split stays as it is, whoever it parts: figures on it are compared
with others'. How many linked patients it parts is counted and said.
"""

import dataclasses
import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sonoray.ingest.ingest_config import IngestConfig
from sonoray.study.contract import SPLITS, Study
from sonoray.study.splits import (
    MAX_SEARCHED,
    SeedChoice,
    assign_split,
    class_shares,
    suggest_seed,
)

logger = logging.getLogger(__name__)

SEED_SETTING = "ingest.seed"

_WIDE_GAP = 0.1
"""Difference of a class's shares from which another seed is looked for."""
_LARGE_GROUP = 0.1
"""Share of the patients in one linked group above which the links are questioned."""


def place_studies(
    studies: Sequence[Study],
    published: Mapping[str, str],
    groups: Mapping[str, str],
    config: IngestConfig,
) -> list[Study]:
    """Return the studies with their splits.

    Args:
        studies: all of them.
        published: by study id, where the set's publisher put it; empty where ingest draws.
        groups: by patient key, the smallest key of its group.
        config: fractions and seed of a draw.
    """
    drawn = {key: assign_split(group, config.splits, config.seed) for key, group in groups.items()}
    return [
        dataclasses.replace(study, split=published.get(study.study_id) or drawn[study.patient_key])
        for study in studies
    ]


def describe_parts(
    dataset: str,
    studies: Sequence[Study],
    groups: Mapping[str, str],
    config: IngestConfig,
    *,
    is_published: bool,
) -> dict[str, Any]:
    """Count the parts for the summary of a dataset, and warn of what is wrong with them.

    Returns:
        `splits` (patients, studies and images of each), `class_shares` (of each class, the value
        whose shares differ most), `parted` (of a published split: linked groups in several parts,
        and their patients) and `seed` (one that does better, with what it gives; None where none
        is needed, or found).
    """
    splits = _count(studies)
    shares = class_shares(studies)
    parted = _parted(studies, groups) if is_published else {"groups": 0, "patients": 0}
    empty = [
        split
        for split in SPLITS
        if not splits[split]["patients"] and (is_published or getattr(config.splits, split) > 0)
    ]
    classes = _classes(studies, [share.label for share in shares])
    choice = None
    is_uneven = bool(empty) or any(s.label == classes[0] and s.gap > _WIDE_GAP for s in shares)
    if is_uneven and not is_published and len(set(groups.values())) <= MAX_SEARCHED:
        label, by_patient = classes
        choice = suggest_seed(groups, by_patient, config.splits, label=label)
        if choice and choice.seed == config.seed:
            choice = None
    for split in empty:
        logger.warning(
            "dataset %s: split %s is empty; %s",
            dataset,
            split,
            _advice(choice, groups, is_published=is_published),
        )
    if parted["groups"]:
        logger.warning(
            "dataset %s: the published split parts %d groups of patients (%d patients) who are one "
            "patient, or share an image or a near duplicate; sonoray audit %s lists them",
            dataset, parted["groups"], parted["patients"], dataset,
        )  # fmt: skip
    largest = max(Counter(groups.values()).values()) / len(groups)
    if not is_published and largest > _LARGE_GROUP and len(groups) > 1 / _LARGE_GROUP:
        logger.warning(
            "dataset %s: near duplicates link %.0f %% of the patients into one split; look at them "
            "with sonoray audit %s; for pictures that are alike and not one, lower "
            "ingest.near_duplicate_distance or raise ingest.near_duplicate_correlation, for a page "
            "that many patients show, lower ingest.shared_image_patients",
            dataset, 100 * largest, dataset,
        )  # fmt: skip
    return {
        "splits": splits,
        "class_shares": [dataclasses.asdict(share) for share in shares],
        "parted": parted,
        "seed": dataclasses.asdict(choice) if choice else None,
    }


def _advice(choice: SeedChoice | None, groups: Mapping[str, str], *, is_published: bool) -> str:
    if is_published:
        return "the published split has no such part here; without --split, ingest draws one"
    if choice:
        sizes = ", ".join(f"{number} {split}" for split, number in choice.patients.items())
        kept = f", shares of {choice.label} within {100 * choice.gap:.0f} points" * bool(
            choice.label
        )
        return f"run it again with --set {SEED_SETTING}={choice.seed}, which gives {sizes}{kept}"
    number = len(set(groups.values()))
    return (
        f"{number} patients that nothing links are too few for the fractions of ingest.splits"
        if number <= MAX_SEARCHED
        else "give more patients, or a larger fraction in ingest.splits"
    )


def _classes(studies: Sequence[Study], labels: Sequence[str]) -> tuple[str, dict[str, str]]:
    """The class that parts should agree in: the label that is asked for, or the first; by patient.

    Args:
        studies: all of them.
        labels: those that are classes.
    """
    asked = {turn.topic for study in studies for turn in study.turns if turn.options}
    known = [label for study in studies for label in study.labels if label in labels]
    label = next((each for each in known if each in asked), known[0] if known else "")
    by_patient = {
        study.patient_key: study.labels[label] for study in studies if label in study.labels
    }
    return label, by_patient


def _parted(studies: Sequence[Study], groups: Mapping[str, str]) -> dict[str, int]:
    splits: defaultdict[str, set[str]] = defaultdict(set)
    for study in studies:
        splits[groups[study.patient_key]].add(study.split)
    parted = {group for group, found in splits.items() if len(found) > 1}
    return {
        "groups": len(parted),
        "patients": sum(group in parted for group in groups.values()),
    }


def _count(studies: Sequence[Study]) -> dict[str, dict[str, int]]:
    counts = {}
    for split in SPLITS:
        members = [study for study in studies if study.split == split]
        counts[split] = {
            "patients": len({study.patient_key for study in members}),
            "studies": len(members),
            "images": sum(len(study.images) for study in members),
        }
    return counts
