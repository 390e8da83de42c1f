"""Leakage: towers that are shared between datasets must not have seen who is judged later.

Patient keys belong to a source, so one patient in two sources has two keys; his pictures give him
away. They are compared as ingest compares those of one source (`study.near_duplicates`): by the
perceptual hashes in the image tables, also through a third picture, by the wider of the two rules
that the datasets were ingested with. So another export of the same picture counts, and a
blank frame, which has no hash, does not.

Only hashes are read, no pixel. The search is that of ingest: 0.4 s of CPU for 10,000 images; it
grows with the square.
"""

from functools import lru_cache
from pathlib import Path

from sonoray.errors import DataError
from sonoray.stages import StageOutput
from sonoray.study.contract import Study, iter_studies
from sonoray.study.image_table import read_hashes
from sonoray.study.near_duplicates import group_near_duplicates
from sonoray.workspace import Workspace

JUDGED = ("validation", "test")


def check_unseen(workspace: Workspace, *, learned: str, judged: str) -> None:
    """Check that no judged patient of one dataset is a training patient of another.

    Args:
        workspace: where both lie.
        learned: dataset whose training patients the towers learned from.
        judged: dataset whose validation and test patients must be new to them.

    Raises:
        DataError: a study shares its patient, an image or a near duplicate of one with the training
            patients; or a dataset was ingested before images had perceptual hashes.
    """
    known, new = workspace.dataset(learned), workspace.dataset(judged)
    if seen := _find_seen(known.path, new.path, wider_rule(known, new)):
        raise DataError(
            f"{len(seen)} validation or test studies of {judged!r} (first {seen[0]!r}) "
            "share a patient, an image or a near duplicate of one with the training patients of "
            f"{learned!r}, from which the towers learned; leave out bootstrap.dataset"
        )


@lru_cache(maxsize=64)
def _find_seen(learned: Path, judged: Path, rule: tuple[int, float]) -> tuple[str, ...]:
    """Ids of the judged studies that the training patients of another dataset give away.

    Kept for the process, which asks at every look for a model: finished datasets do not change.
    """
    training = list(iter_studies(learned, split="train", complete=False))
    patients = {study.patient_key for study in training}
    judged_studies = [
        study for split in JUDGED for study in iter_studies(judged, split=split, complete=False)
    ]
    learned_hashes = _hashes_of(training, read_hashes(learned))
    judged_hashes = _hashes_of(judged_studies, read_hashes(judged))
    groups = group_near_duplicates([*learned_hashes.values(), *judged_hashes.values()], *rule)
    # the label of a group is its first image, so that of a seen one is an image of the training
    labels = groups[len(learned_hashes) :]
    seen_images = {
        image_id
        for image_id, label in zip(judged_hashes, labels, strict=True)
        if label < len(learned_hashes)
    }
    return tuple(
        study.study_id
        for study in judged_studies
        if study.patient_key in patients
        or any(image.image_id in seen_images for image in study.images)
    )


def near_duplicate_distance(dataset: StageOutput) -> int:
    """The `IngestConfig.near_duplicate_distance` that a dataset was ingested with, in bits."""
    return int(dataset.manifest["config"]["ingest"]["near_duplicate_distance"])


def near_duplicate_correlation(dataset: StageOutput) -> float:
    """The `IngestConfig.near_duplicate_correlation` that it was ingested with; 1 before it was."""
    return float(dataset.manifest["config"]["ingest"].get("near_duplicate_correlation", 1))


def wider_rule(*datasets: StageOutput) -> tuple[int, float]:
    """Distance and correlation by which images of several datasets are compared."""
    distances = map(near_duplicate_distance, datasets)
    return max(distances), min(map(near_duplicate_correlation, datasets))


def _hashes_of(studies: list[Study], hashes: dict[str, bytes | None]) -> dict[str, bytes | None]:
    """The hashes of the images of some studies."""
    return {image.image_id: hashes[image.image_id] for study in studies for image in study.images}
