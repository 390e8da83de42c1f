"""Leakage: studies whose patient a model has seen in training, found by their images alone.

An exported model holds the exact and the perceptual hashes of its training images and no patient
(`sonoray_jobs.outputs.model_record`). A study's image is seen where it is one of them, or looks
like one by the rule of near duplicates (`sonoray.study.near_duplicates`), also through a third.
With an image its patient is seen: all his studies are set aside, whatever they show.

What hashes cannot tell: another picture of a training patient. And nobody knows what published
towers or language models were trained on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sonoray.study.contract import Study
from sonoray.study.near_duplicates import group_near_duplicates
from sonoray_jobs.outputs.model_record import Hashes


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What of a dataset a model has seen."""

    exact_images: int
    """Unique images of the dataset that were trained on."""
    near_images: int
    """Further ones that look like one."""
    studies: int
    """All studies of their patients."""
    patients: int
    training_images: int
    """Hashes that were compared with."""
    distance: int
    """Bits of 256 up to which two images look alike."""
    correlation: float
    """Of their detail, from which images further apart look alike."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def set_aside_seen(
    studies: Sequence[Study],
    hashes: Mapping[str, bytes | None],
    training: Hashes,
    *,
    distance: int,
    correlation: float,
) -> tuple[list[Study], Seen]:
    """Split off the studies of patients of whom the model has seen an image.

    Args:
        studies: those of the dataset.
        hashes: perceptual hash by image id of the dataset.
        training: the same of the model's training images.
        distance: bits up to which two images look alike.
        correlation: of their detail, from which images further apart do.

    Returns:
        The studies that are left, and what was set aside.
    """
    own = {image.image_id: hashes[image.image_id] for study in studies for image in study.images}
    exact = own.keys() & training.keys()
    groups = group_near_duplicates([*training.values(), *own.values()], distance, correlation)
    # a group's label is its first image, so that of a seen one is an image of the training
    labels = zip(own, groups[len(training) :], strict=True)
    seen = exact | {image_id for image_id, label in labels if label < len(training)}
    patients = {
        study.patient_key
        for study in studies
        if any(image.image_id in seen for image in study.images)
    }
    left = [study for study in studies if study.patient_key not in patients]
    return left, Seen(
        exact_images=len(exact),
        near_images=len(seen) - len(exact),
        studies=len(studies) - len(left),
        patients=len(patients),
        training_images=len(training),
        distance=distance,
        correlation=correlation,
    )
