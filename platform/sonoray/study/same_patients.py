"""Which patients may be one person: splits are drawn by patient, and may not part these.

Two patients are linked where they share a picture or a near duplicate of it (`near_duplicates`), or
where their identifiers differ in case, in width (`Ｐ３` and `P3`) or in blanks alone, as typing
makes them. They stay two patients, since nobody here can tell; what is linked goes into one split.
"""

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from sonoray.study.contract import Study
from sonoray.study.near_duplicates import connected_labels, group_near_duplicates


def plain_spelling(ref: str) -> str:
    """An identifier without what typing varies: case, width, blanks and invisible characters."""
    folded = unicodedata.normalize("NFKC", ref).casefold()
    return "".join(each for each in folded if unicodedata.category(each)[0] not in "ZC")


def link_patients(
    studies: Sequence[Study],
    spellings: Mapping[str, str],
    hashes: Mapping[str, bytes | None],
    max_distance: int,
) -> dict[str, str]:
    """Group the patients of studies.

    Args:
        studies: all of them.
        spellings: by patient key, what stands for the plain spelling of the identifier.
        hashes: perceptual hash by image id.
        max_distance: see `near_duplicates`.

    Returns:
        By patient key, sorted: the smallest key of its group.
    """
    patients = sorted({study.patient_key for study in studies})
    position = {patient: number for number, patient in enumerate(patients)}
    looks = group_near_duplicates(list(hashes.values()), max_distance)
    look_of = dict(zip(hashes, looks, strict=True))
    first = {spellings[patient]: position[patient] for patient in reversed(patients)}
    edges = [(position[patient], first[spellings[patient]]) for patient in patients]
    # A blank frame has no hash: even pixel for pixel the same, it says nothing of the patient.
    edges += [
        (position[study.patient_key], len(patients) + look_of[image.image_id])
        for study in studies
        for image in study.images
        if hashes[image.image_id]
    ]
    labels = connected_labels(len(patients) + len(looks), [np.array(edges).reshape(-1, 2)])
    return {patient: patients[label] for patient, label in zip(patients, labels, strict=False)}


def count_linked(groups: Mapping[str, str]) -> dict[str, int]:
    """How many `groups` have several patients, and how many `patients` are in them."""
    sizes = [size for size in Counter(groups.values()).values() if size > 1]
    return {"groups": len(sizes), "patients": sum(sizes)}
