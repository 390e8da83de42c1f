"""What one dataset shares with another: pictures, near duplicates of them, and patients.

A model that learned from one and is judged on the other has seen what they share, and benchmarks
share a lot: question-answer sets are made of each other's images. Images are compared as ingest
compares those of one dataset (`study.near_duplicates`), by the wider of the two rules that the
datasets were ingested with, also through others. Patients are compared by their keys: hospitals'
own identifiers mean the same person in every dataset, those of published sets within one set.

Only hashes are read, no pixel.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sonoray.stages import StageOutput
from sonoray.study.contract import SPLITS, Study, iter_studies
from sonoray.study.image_table import read_hashes
from sonoray.study.near_duplicates import describe_rule, hash_distance
from sonoray.study.same_patients import group_images
from sonoray_jobs.data.leakage import JUDGED, wider_rule

_MAX_NAMED = 20
"""Most studies that a row names."""


@dataclass(slots=True)
class _Shown:
    """Who shows the images of one dataset."""

    patients: set[str] = field(default_factory=set)
    of_image: dict[str, dict[str, Study]] = field(default_factory=lambda: defaultdict(dict))
    """By image id: studies, by their ids."""

    @classmethod
    def of(cls, studies: Iterable[Study]) -> "_Shown":
        shown = cls()
        for study in studies:
            shown.patients.add(study.patient_key)
            for image in study.images:
                shown.of_image[image.image_id][study.study_id] = study
        return shown

    def studies(self, image_ids: Iterable[str]) -> dict[str, Study]:
        """The studies that show any of some images."""
        return {key: each for image in image_ids for key, each in self.of_image[image].items()}


def find_overlap(
    dataset: StageOutput, other: StageOutput, *, name: str, max_listed: int
) -> dict[str, Any]:
    """Compare the images and patients of two datasets, as plain JSON values.

    Args:
        dataset: the one that is looked at.
        other: the one that may have been learned from.
        name: what the other one is called.
        max_listed: most shared pictures that are listed; all are counted.

    Returns:
        `dataset`, `rule`, numbers of `images` and `patients` here, `shared` and `exact` images,
        patients who show them (`sharing`) and whose key is there too (`same_patients`), `splits`
        (shared images by split here), `learned` (images of validation and test that are training
        images there) and `rows`.

    Raises:
        DataError: one was ingested before images had perceptual hashes.
    """
    rule = wider_rule(dataset, other)
    here, there = read_hashes(dataset.path), read_hashes(other.path)
    looks = group_images({**here, **there}, *rule)
    shown, seen = (_Shown.of(iter_studies(each.path, complete=False)) for each in (dataset, other))
    groups: defaultdict[int, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for side, hashes in enumerate((here, there)):
        for image_id in hashes:
            if image_id in looks:
                groups[looks[image_id]][side].append(image_id)
    shared = [(mine, theirs) for mine, theirs in groups.values() if mine and theirs]
    splits: Counter[str] = Counter()
    learned: set[str] = set()
    sharing: set[str] = set()
    rows: list[dict[str, Any]] = []
    for mine, theirs in shared:
        studies, others = shown.studies(mine), seen.studies(theirs)
        sharing |= {study.patient_key for study in studies.values()}
        splits_there = {study.split for study in others.values()}
        for image_id in mine:
            splits_here = {study.split for study in shown.of_image[image_id].values()}
            splits.update(splits_here)
            if SPLITS[0] in splits_there and splits_here & set(JUDGED):
                learned.add(image_id)
        if len(rows) < max_listed:
            rows.append(_row(mine, theirs, studies, others, here, there))
    return {
        "dataset": name,
        "rule": describe_rule(*rule),
        "images": len(here),
        "shared": sum(len(mine) for mine, _ in shared),
        "exact": len(here.keys() & there.keys() & looks.keys()),
        "patients": len(shown.patients),
        "sharing": len(sharing),
        "same_patients": len(shown.patients & seen.patients),
        "splits": {split: splits[split] for split in SPLITS},
        "learned": len(learned),
        "rows": rows,
    }


def _row(
    mine: list[str],
    theirs: list[str],
    studies: dict[str, Study],
    others: dict[str, Study],
    here: dict[str, bytes | None],
    there: dict[str, bytes | None],
) -> dict[str, Any]:
    """One shared picture, with the studies that show it on both sides."""
    values = [here[mine[0]] or b"", *(there[image] or b"" for image in theirs)]
    return {
        "exact": bool(set(mine) & set(theirs)),
        "distance": min(hash_distance(values[0], each) for each in values[1:]),
        "splits": sorted({each.split for each in studies.values()}, key=SPLITS.index),
        "other_splits": sorted({each.split for each in others.values()}, key=SPLITS.index),
        "studies": list(studies)[:_MAX_NAMED],
        "images": mine[:_MAX_NAMED],
        "other_studies": list(others)[:_MAX_NAMED],
        "other_images": theirs[:_MAX_NAMED],
    }
