"""Which part of a dataset each study is in, and what the user must know of the parts.

A draw by patient, or the split that the set was published with (`RawStudy.split`), where the source
was asked for it. A published split stays as it is, whoever it parts: figures on it are compared
with others'. How many linked patients it parts is counted and said.
"""

import dataclasses
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sonoray.errors import DataError
from sonoray.ingest.ingest_config import IngestConfig
from sonoray.study.contract import SPLITS, Study
from sonoray.study.splits import (
    MAX_SEARCHED,
    HoldOut,
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


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PlacedStudies:
    """Studies with their splits; iterated as often as the studies can be."""

    studies: Iterable[Study]
    published: Mapping[str, str]
    """By study id, where the set's publisher put it; empty where ingest draws."""
    drawn: Mapping[str, str]
    """By patient key, the split that the draw gave."""

    def __iter__(self) -> Iterator[Study]:
        for study in self.studies:
            split = self.published.get(study.study_id) or self.drawn[study.patient_key]
            yield dataclasses.replace(study, split=split)


def place_studies(
    studies: Iterable[Study],
    published: Mapping[str, str],
    groups: Mapping[str, str],
    config: IngestConfig,
) -> PlacedStudies:
    """Give studies their splits.

    Args:
        studies: all of them; can be iterated several times.
        published: by study id, where the set's publisher put it; empty where ingest draws.
        groups: by patient key, the smallest key of its group.
        config: fractions and seed of a draw, and who is held out of it.

    Raises:
        DataError: nobody, or everybody, would be held out, or the split is a published one.
    """
    hold = config.hold_out
    fractions = hold.fractions(config.splits) if hold else config.splits
    drawn = {key: assign_split(group, fractions, config.seed) for key, group in groups.items()}
    if hold:
        held = _held_groups(studies, published, groups, hold)
        drawn = {
            key: hold.place(split, is_held=groups[key] in held) for key, split in drawn.items()
        }
    return PlacedStudies(studies=studies, published=published, drawn=drawn)


def _held_groups(
    studies: Iterable[Study],
    published: Mapping[str, str],
    groups: Mapping[str, str],
    hold: HoldOut,
) -> set[str]:
    """The groups of patients with a study that is held out."""
    if published:
        raise DataError(
            "ingest.hold_out draws a split, and --split published takes one as it is; give one"
        )
    held, known, labels = set[str](), set[str](), set[str]()
    for study in studies:
        labels.update(study.labels)
        value = study.labels.get(hold.label)
        if value is not None:
            known.add(value)
        if value in hold.values:
            held.add(groups[study.patient_key])
    if unknown := sorted(set(hold.values).difference(known)):
        there = f"its values are {sorted(known)}" if known else f"the labels are {sorted(labels)}"
        raise DataError(
            f"ingest.hold_out: no study has label {hold.label!r} with {unknown[0]!r}; {there}"
        )
    if held == set(groups.values()):
        raise DataError(
            f"ingest.hold_out: all patients have label {hold.label!r} with one of "
            f"{list(hold.values)}, or are linked to one who has, so that none is left to train "
            "on; hold out fewer values"
        )
    return held


def describe_parts(
    dataset: str,
    studies: Iterable[Study],
    groups: Mapping[str, str],
    config: IngestConfig,
    *,
    is_published: bool,
) -> dict[str, Any]:
    """Count the parts for the summary of a dataset, and warn of what is wrong with them.

    The studies are iterated once, and again where a better seed is looked for.

    Returns:
        `splits` (patients, studies and images of each), `without_text` and `without_images`
        (studies that lack one half), `class_shares` (of each class, the value
        whose shares differ most), `parted` (of a published split: linked groups in several parts,
        and their patients) and `seed` (one that does better, with what it gives; None where none
        is needed, or found).
    """
    tally = _Tally(groups)
    shares = class_shares(map(tally.count, studies))
    splits = tally.sizes()
    parted = tally.parted() if is_published else {"groups": 0, "patients": 0}
    empty = [
        split
        for split in SPLITS
        if not splits[split]["patients"] and (is_published or getattr(config.splits, split) > 0)
    ]
    label = tally.asked_label([share.label for share in shares])
    choice = None
    is_uneven = bool(empty) or any(s.label == label and s.gap > _WIDE_GAP for s in shares)
    is_drawn = not is_published and config.hold_out is None
    if is_uneven and is_drawn and len(set(groups.values())) <= MAX_SEARCHED:
        by_patient = {
            each.patient_key: each.labels[label] for each in studies if label in each.labels
        }
        choice = suggest_seed(groups, by_patient, config.splits, label=label)
        if choice and choice.seed == config.seed:
            choice = None
    for split in empty:
        logger.warning(
            "dataset %s: split %s is empty; %s",
            dataset,
            split,
            "ingest.hold_out and the fractions of ingest.splits leave nobody for it"
            if config.hold_out
            else _advice(choice, groups, is_published=is_published),
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
        "without_text": tally.num_without_text,
        "without_images": tally.num_without_images,
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


class _Tally:
    """Counts what the parts hold, as the studies pass by."""

    def __init__(self, groups: Mapping[str, str]) -> None:
        self._groups = groups
        self._numbers = {key: number for number, key in enumerate(groups)}
        self._patients: dict[str, set[int]] = {split: set() for split in SPLITS}
        self._studies: Counter[str] = Counter()
        self._images: Counter[str] = Counter()
        self._asked: set[str] = set()
        self._labels: dict[str, None] = {}
        self.num_without_text = 0
        self.num_without_images = 0

    def count(self, study: Study) -> Study:
        """Count one, and hand it on."""
        self._patients[study.split].add(self._numbers[study.patient_key])
        self._studies[study.split] += 1
        self._images[study.split] += len(study.images)
        self._asked.update(turn.topic for turn in study.turns if turn.options)
        self._labels.update(dict.fromkeys(study.labels))
        self.num_without_text += not study.turns
        self.num_without_images += not study.images
        return study

    def sizes(self) -> dict[str, dict[str, int]]:
        """Patients, studies and images of each part."""
        return {
            split: {
                "patients": len(self._patients[split]),
                "studies": self._studies[split],
                "images": self._images[split],
            }
            for split in SPLITS
        }

    def parted(self) -> dict[str, int]:
        """Linked groups in several parts, and their patients."""
        splits: defaultdict[str, set[str]] = defaultdict(set)
        for key, number in self._numbers.items():
            group = splits[self._groups[key]]
            group.update(split for split in SPLITS if number in self._patients[split])
        parted = {group for group, found in splits.items() if len(found) > 1}
        return {
            "groups": len(parted),
            "patients": sum(group in parted for group in self._groups.values()),
        }

    def asked_label(self, classes: Sequence[str]) -> str:
        """The class that parts should agree in: the label that is asked for, or the first one."""
        known = [label for label in self._labels if label in classes]
        first = known[0] if known else ""
        return next((label for label in known if label in self._asked), first)
