"""Leakage: towers that are shared between datasets must not have seen who is judged later.

Patient keys belong to a source, so one patient in two sources has two keys; equal images give him
away.
"""

from sonoray.errors import DataError
from sonoray.study.contract import iter_studies
from sonoray.workspace import Workspace

JUDGED = ("validation", "test")


def check_unseen(workspace: Workspace, *, learned: str, judged: str) -> None:
    """Check that no judged patient of one dataset is a training patient of another.

    Args:
        workspace: where both lie.
        learned: dataset whose training patients the towers learned from.
        judged: dataset whose validation and test patients must be new to them.

    Raises:
        DataError: a study shares its patient or an image with the training patients.
    """
    patients, images = set[str](), set[str]()
    for study in iter_studies(workspace.dataset(learned).path, split="train", complete=False):
        patients.add(study.patient_key)
        images.update(image.image_id for image in study.images)
    folder = workspace.dataset(judged).path
    seen = [
        study.study_id
        for split in JUDGED
        for study in iter_studies(folder, split=split, complete=False)
        if study.patient_key in patients or any(image.image_id in images for image in study.images)
    ]
    if seen:
        raise DataError(
            f"{len(seen)} validation or test studies of {judged!r} (first {seen[0]!r}) share a "
            f"patient or an image with the training patients of {learned!r}, from which the towers "
            "learned; leave out bootstrap.dataset"
        )
