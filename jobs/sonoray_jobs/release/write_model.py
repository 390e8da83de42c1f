"""What an exported folder holds: the code that decides it, and no more.

The export stage's key covers this module and all that it imports.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sonoray_jobs.outputs.model_record import RECORD, write_record
from sonoray_jobs.release.collect_record import RecordSources, collect_record

if TYPE_CHECKING:
    from llava_ultra.parameters.precision_names import Precision
    from sonoray_jobs.outputs.find import TrainedParts


def write_model(
    folder: Path,
    trained: "TrainedParts",
    parts: Mapping[str, Path],
    *,
    name: str,
    site_cue: bool,
    tower_precision: "Precision",
    provenance: Mapping[str, Any],
    record: RecordSources,
    calibration: Mapping[str, Any] | None = None,
    student: Path | None = None,
) -> dict[str, str]:
    """Write a trained model with its frozen parts, its record and its manifest.

    Args:
        folder: is made.
        trained: the finished training.
        parts: folders of `language`, `clip`, `sam` and further towers.
        name: of the model.
        site_cue: whether its questions begin with the examination site.
        tower_precision: what the towers multiply in.
        provenance: what the manifest says of its making, beside the digests of the record.
        record: where what the folder keeps of its making comes from.
        calibration: how its probabilities are made, where that was fitted.
        student: folder of the student that goes with it.

    Returns:
        The digest of every part.

    Raises:
        CheckpointError: the frozen parts have changed since the training.
        ValueError: the student is another model's.
    """
    from llava_ultra.export.manifest import save_artifact
    from llava_ultra.language.decoder import load_language
    from llava_ultra.towers.clip import ClipTower
    from llava_ultra.towers.mix.mix_tower import MixTower
    from llava_ultra.towers.sam import SamTower
    from sonoray_jobs.training.restore import load_trained

    model, _ = load_trained(trained)
    folder.mkdir()
    kept = write_record(folder, collect_record(record))
    manifest = save_artifact(
        folder,
        name=name,
        model=model,
        language=load_language(parts["language"]),
        clip=ClipTower.load(parts["clip"]),
        sam=SamTower.load(parts["sam"]),
        more={tower.name: MixTower.load(parts[tower.name]) for tower in trained.road.model.towers},
        provenance={**provenance, RECORD: kept},
        site_cue=site_cue,
        tower_precision=tower_precision,
        calibration=calibration,
        student=student,
    )
    digests: dict[str, str] = manifest["digests"]
    return digests
