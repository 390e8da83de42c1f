"""Which patients may be one person: splits are drawn by patient, and may not part these.

Two patients are linked where they share a picture or a near duplicate of it (`near_duplicates`), or
where their identifiers differ in case, in width (`Ｐ３` and `P3`) or in blanks alone, as typing
makes them. They stay two patients, since nobody here can tell; what is linked goes into one split.

A picture that very many patients show is none of theirs: the start page of a scanner, a template, a
phantom. It would link them all, so `find_shared_images` finds it and ingest sets it aside. What
counts is who shows the picture itself or a near duplicate of it, not one that is like it through
others: a chain of likenesses is no page.
"""

import unicodedata
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

import numpy as np

from sonoray.study.contract import Study
from sonoray.study.near_duplicates import (
    connected_labels,
    group_near_duplicates,
    hash_bits,
    near_pairs,
)


def plain_spelling(ref: str) -> str:
    """An identifier without what typing varies: case, width, blanks and invisible characters."""
    folded = unicodedata.normalize("NFKC", ref).casefold()
    return "".join(each for each in folded if unicodedata.category(each)[0] not in "ZC")


def group_images(
    hashes: Mapping[str, bytes | None], max_distance: int, min_correlation: float
) -> dict[str, int]:
    """Say which images are one picture: by image id, the number of its group.

    Args:
        hashes: perceptual hash by image id. A blank frame has none and is in no group: even pixel
            for pixel the same, it says nothing of the patient.
        max_distance: see `near_duplicates`.
        min_correlation: see `near_duplicates`.
    """
    labels = group_near_duplicates(list(hashes.values()), max_distance, min_correlation)
    return {
        image_id: label
        for (image_id, value), label in zip(hashes.items(), labels, strict=True)
        if value
    }


def link_patients(
    studies: Iterable[Study], spellings: Mapping[str, str], looks: Mapping[str, int]
) -> dict[str, str]:
    """Group the patients of studies.

    Args:
        studies: all of them.
        spellings: by patient key, what stands for the plain spelling of the identifier.
        looks: by image id, as `group_images` returns it.

    Returns:
        By patient key, sorted: the smallest key of its group.
    """
    found: dict[str, int] = {}
    shows = array("q")
    for study in studies:
        number = found.setdefault(study.patient_key, len(found))
        for image in study.images:
            if image.image_id in looks:
                shows.extend((number, looks[image.image_id]))
    patients = sorted(found)
    rank = np.empty(len(found), np.int64)
    rank[[found[patient] for patient in patients]] = np.arange(len(found))
    by_look = np.array(shows, np.int64).reshape(-1, 2)
    by_look = np.stack([rank[by_look[:, 0]], by_look[:, 1] + len(patients)], axis=1)
    first: dict[str, int] = {}
    by_name = [(n, first.setdefault(spellings[key], n)) for n, key in enumerate(patients)]
    size = len(patients) + max(looks.values(), default=-1) + 1
    labels = connected_labels(size, [by_look, np.array(by_name, np.int64).reshape(-1, 2)])
    return {patient: patients[label] for patient, label in zip(patients, labels, strict=False)}


def find_shared_images(
    studies: Iterable[Study],
    hashes: Mapping[str, bytes | None],
    looks: Mapping[str, int],
    rule: tuple[int, float],
    *,
    min_patients: int,
) -> dict[str, int]:
    """Find the pictures that many patients show.

    Args:
        studies: all of them; iterated twice where some picture may be one.
        hashes: perceptual hash by image id.
        looks: by image id, as `group_images` returns it.
        rule: the distance and the correlation with which it did.
        min_patients: how many are many; 0 finds none.

    Returns:
        By image id: how many patients show it, or a near duplicate of it.
    """
    if not min_patients:
        return {}
    wide = _shown_by_many(studies, looks, min_patients)
    groups: defaultdict[int, defaultdict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for study in studies if wide else ():
        for image in study.images:
            if (look := looks.get(image.image_id)) in wide:
                groups[look][image.image_id].add(study.patient_key)
    found: dict[str, int] = {}
    for owners in groups.values():
        counts = _count_showing(owners, hashes, rule)
        found |= {each: number for each, number in counts.items() if number >= min_patients}
    return found


def _shown_by_many(
    studies: Iterable[Study], looks: Mapping[str, int], min_patients: int
) -> frozenset[int]:
    """The groups of like images of which so many patients show one."""
    patients: dict[str, int] = {}
    shows = array("q")
    for study in studies:
        number = patients.setdefault(study.patient_key, len(patients))
        for image in study.images:
            if image.image_id in looks:
                shows.extend((looks[image.image_id], number))
    each = np.unique(np.array(shows, np.int64).reshape(-1, 2), axis=0)
    groups, counts = np.unique(each[:, 0], return_counts=True)
    return frozenset(groups[counts >= min_patients].tolist())


def _count_showing(
    owners: Mapping[str, set[str]], hashes: Mapping[str, bytes | None], rule: tuple[int, float]
) -> dict[str, int]:
    """By image id, how many patients show it or a near duplicate; `owners` show itself."""
    by_bits: defaultdict[bytes, list[str]] = defaultdict(list)
    for image_id in owners:
        by_bits[hash_bits(hashes[image_id] or b"")].append(image_id)
    classes = list(by_bits.values())
    own = [set().union(*(owners[image_id] for image_id in ids)) for ids in classes]
    shown = [set(patients) for patients in own]
    for pairs in near_pairs([hashes[ids[0]] for ids in classes], *rule):
        for one, other in pairs.tolist():
            shown[one] |= own[other]
            shown[other] |= own[one]
    return {
        image_id: len(patients)
        for ids, patients in zip(classes, shown, strict=True)
        for image_id in ids
    }


def count_linked(groups: Mapping[str, str]) -> dict[str, int]:
    """How many `groups` have several patients, and how many `patients` are in them."""
    sizes = [size for size in Counter(groups.values()).values() if size > 1]
    return {"groups": len(sizes), "patients": sum(sizes)}
