"""The student of a finished training, as `sonoray distil` left it."""

from llava_ultra.student.student_card import CARD, read_card
from sonoray.errors import DataError
from sonoray.stages import MANIFEST, StageOutput, read_manifest
from sonoray.workspace import Workspace
from sonoray_jobs.outputs.find import Trained


def find_student(workspace: Workspace, dataset: str, trained: Trained) -> StageOutput:
    """Return the newest student of a training, whatever its settings and its judged split.

    Raises:
        DataError: it has none, or one of an earlier version alone.
    """
    found = []
    for path in workspace.stages.glob(f"distil-{dataset}-*/{MANIFEST}"):
        try:
            card = read_card(path.parent)
        except ValueError:  # of an earlier version
            continue
        if card.teacher == trained.name:
            found.append((path.stat().st_mtime_ns, path.parent))
    if not found:
        raise DataError(
            f"training {trained.name!r} has no student with a {CARD} of this version; run first: "
            f"sonoray distil --dataset {dataset} --run {trained.name}"
        )
    _, folder = max(found)
    return StageOutput(path=folder, manifest=read_manifest(folder), reused=True)
