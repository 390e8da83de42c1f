"""Splits by patient: the part of a dataset that a patient is in follows from the patient key.

A uniform number in [0, 1) from the key's hash falls into one of three intervals. Adding patients
therefore moves no other one, with one exception: patients whom a shared image, a near duplicate or
an identifier that differs only in spelling links follow the smallest key of their group
(`sonoray.study.same_patients`), so a newcomer who joins a group can move it.

A draw leaves the classes as unequal as chance makes them, and of a dozen patients it may leave a
part empty. `class_shares` says how unequal, and `suggest_seed` looks for a seed that does better
(a tenth of a second for 100 patients): to be chosen before anything is trained, and by nobody but
the user, since a split that moved by itself would part a patient from what was learned of him.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, model_validator

from sonoray.config.model import Config
from sonoray.study.contract import SPLITS, Study

_MAX_CLASSES = 8
"""Most values of a label that is a class; one of more is a device or a measurement."""
_SEEDS = 1000
"""Seeds that are tried."""
MAX_SEARCHED = 300
"""Most groups of patients for which another seed is looked for; larger sets need none."""


class SplitFractions(Config):
    """Share of the patients in each split; the three add up to 1."""

    train: float = Field(default=0.6, ge=0, le=1)
    """What the model learns from."""
    validation: float = Field(default=0.1, ge=0, le=1)
    """What decisions during training look at."""
    test: float = Field(default=0.3, ge=0, le=1)
    """What the reported numbers come from."""

    @model_validator(mode="after")
    def _add_up(self) -> "SplitFractions":
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(f"train + validation + test = {total:g}, they must add up to 1")
        return self


class HoldOut(Config):
    """Patients with some values of a label, all of them in one split and none of them in training.

    So that what is learned is judged on a scanner, or a site, that it has not seen.
    """

    label: str = Field(min_length=1)
    """Of studies, as `device`."""
    values: tuple[str, ...] = Field(min_length=1)
    """Its values; a patient with a study of one of them is held out, with all that is linked."""
    split: Literal["validation", "test"] = "test"
    """`test`: all others are drawn to train and validation. `validation`: those whom the draw puts
    into the test stay there, whatever their label, and all others train; so settings are chosen
    on the values left out, and the test patients are still unseen."""

    def place(self, drawn: str, *, is_held: bool) -> str:
        """The split of a patient whom a draw put into `drawn`."""
        if self.split == "test":
            return self.split if is_held else drawn
        if drawn == SPLITS[2]:
            return drawn
        return self.split if is_held else SPLITS[0]

    def fractions(self, given: SplitFractions) -> SplitFractions:
        """What is drawn with: where the held out are the test, the others share the rest."""
        if self.split != "test":
            return given
        train = given.train / (given.train + given.validation or 1)
        return SplitFractions(train=train, validation=1 - train, test=0)


def assign_split(patient_key: str, fractions: SplitFractions, seed: int = 0) -> str:
    """Return the split of a patient, one of `study.SPLITS`.

    Args:
        patient_key: as `IdentityKey.patient_key` gives it.
        fractions: width of the intervals.
        seed: another seed draws another partition.
    """
    digest = hashlib.sha256(f"split\0{seed}\0{patient_key}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    if position < fractions.train:
        return SPLITS[0]
    return SPLITS[1] if position < fractions.train + fractions.validation else SPLITS[2]


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassShare:
    """How a label is spread over the parts: its value whose share differs most."""

    label: str
    value: str
    shares: Mapping[str, float | None]
    """By split: share of the value among its studies that have the label; None without any."""
    gap: float
    """Largest share less smallest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedChoice:
    """A seed that leaves no part empty."""

    seed: int
    patients: Mapping[str, int]
    """By split: how many."""
    label: str
    """The label whose shares it keeps together; empty where there is none."""
    gap: float
    """Its largest difference of shares between two parts."""


def class_shares(studies: Iterable[Study]) -> list[ClassShare]:
    """Say how far the shares of each class differ between the parts, the widest label first.

    A class is a study label of 2 to 8 values. A label of one value in each part, as of a set with
    a part of its own for it, differs by 1.
    """
    counts: defaultdict[str, dict[str, Counter[str]]] = defaultdict(
        lambda: {split: Counter() for split in SPLITS}
    )
    values: defaultdict[str, set[str]] = defaultdict(set)
    for study in studies:
        for label, value in study.labels.items():
            if len(values[label]) <= _MAX_CLASSES:  # of a measurement they are not collected
                values[label].add(value)
                counts[label][study.split][value] += 1
    found = [
        max((_share(label, value, counts[label]) for value in sorted(known)), key=lambda s: s.gap)
        for label, known in values.items()
        if 2 <= len(known) <= _MAX_CLASSES
    ]
    return sorted(found, key=lambda share: -share.gap)


def suggest_seed(
    groups: Mapping[str, str],
    classes: Mapping[str, str],
    fractions: SplitFractions,
    *,
    label: str = "",
) -> SeedChoice | None:
    """Look for the seed that leaves no part empty and keeps the shares of a class closest.

    Args:
        groups: by patient key, the smallest key of its group (`same_patients.link_patients`).
        classes: by patient key, its class; patients without one may be left out.
        fractions: width of the intervals; a part of width 0 may be empty.
        label: what the classes are called.

    Returns:
        None where no seed of those tried fills every part.
    """
    wanted = {split for split in SPLITS if getattr(fractions, split) > 0}
    members = Counter(groups.values())
    found: list[SeedChoice] = []
    for seed in range(_SEEDS):
        split_of = {group: assign_split(group, fractions, seed) for group in members}
        if not wanted <= set(split_of.values()):
            continue
        by_split = {split: Counter[str]() for split in SPLITS}
        for patient, value in classes.items():
            by_split[split_of[groups[patient]]][value] += 1
        values = set(classes.values())
        patients = Counter[str]()
        for group, split in split_of.items():
            patients[split] += members[group]
        found.append(
            SeedChoice(
                seed=seed,
                patients={split: patients[split] for split in SPLITS},
                label=label,
                gap=max((_share(label, v, by_split).gap for v in values), default=0.0),
            )
        )
    expected = {split: getattr(fractions, split) * len(groups) for split in SPLITS}

    def rank(choice: SeedChoice) -> tuple[float, float, int]:
        away = sum(abs(choice.patients[split] - expected[split]) for split in SPLITS)
        # a class spread well over parts of a wrong size is no better than the reverse
        return (round(choice.gap + away / len(groups), 3), choice.gap, choice.seed)

    return min(found, key=rank, default=None)


def _share(label: str, value: str, by_split: Mapping[str, Counter[str]]) -> ClassShare:
    totals = {split: counted.total() for split, counted in by_split.items()}
    shares = {
        split: counted[value] / totals[split] if totals[split] else None
        for split, counted in by_split.items()
    }
    known = [share for share in shares.values() if share is not None]
    return ClassShare(label=label, value=value, shares=shares, gap=max(known) - min(known))
