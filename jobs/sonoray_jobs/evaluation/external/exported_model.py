"""An exported model as a validation uses it: its folder, what it says of itself, its towers.

The towers embed the other dataset's images into the workspace's feature store, under their own
fingerprints: where the workspace knows the towers, images that it has embedded stay embedded.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_ultra.config import ModelConfig
from llava_ultra.parameters.precision_names import Precision
from sonoray.errors import CheckpointError
from sonoray.tracking.connection import Store
from sonoray.tracking.registry import manifest_digest, resolve_model
from sonoray.workspace import Workspace
from sonoray_jobs.outputs.model_record import ModelRecord, read_record


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportedModel:
    """A model's folder and what its manifest and its record say."""

    folder: Path
    digest: str
    """Sha256 (hex) of its manifest."""
    name: str
    config: ModelConfig
    site_cue: bool
    precision: Precision
    """What it multiplied in when it was trained."""
    tower_precision: Precision
    """What the towers of its training multiplied in."""
    digests: Mapping[str, str]
    """Of its parts; of a tower it is the fingerprint."""
    run_id: str
    """MLflow run of its training."""
    training: str
    dataset_key: str
    """Key of the dataset that it was trained on."""
    record: ModelRecord

    @property
    def fingerprints(self) -> dict[str, str]:
        """Of the towers."""
        return {tower: self.digests[tower] for tower in self.config.tower_shapes}

    @property
    def tower_folders(self) -> dict[str, Path]:
        """Where the towers lie."""
        return {tower: self.folder / tower for tower in self.config.tower_shapes}

    @property
    def adopted(self) -> list[str]:
        """Parts that come from published weights."""
        config = self.config
        origins = {
            "clip": config.clip.weights,
            "sam": config.sam.weights,
            "language": config.language.source,
        }
        further = [tower.name for tower in config.towers]
        return [*(part for part, origin in origins.items() if origin), *further]


def open_exported(model: str, store: Store, workspace: Workspace) -> ExportedModel:
    """Find an exported model and read what it says of itself.

    Args:
        model: `models:/NAME@ALIAS`, `models:/NAME/VERSION` or a folder.
        store: whose registry knows the names.
        workspace: keeps what has to be downloaded.

    Raises:
        TrackingError: no such model, version or alias.
        CheckpointError: the folder is missing, of another format, or lacks its record.
    """
    from llava_ultra.export.manifest import precision_of, read_artifact_manifest

    folder = resolve_model(store, model, workspace.models).resolve()
    try:
        manifest: dict[str, Any] = read_artifact_manifest(folder)
        config = ModelConfig.model_validate(manifest["config"])
        precision = precision_of(manifest, "model")
        tower_precision = precision_of(manifest, "towers")
    except ValueError as error:
        raise CheckpointError(f"model {model!r} is refused: {error}") from None
    provenance = manifest["provenance"]
    return ExportedModel(
        folder=folder,
        digest=manifest_digest(folder),
        name=manifest["name"],
        config=config,
        site_cue=manifest["site_cue"],
        precision=precision,
        tower_precision=tower_precision,
        digests=manifest["digests"],
        run_id=provenance["run_id"],
        training=provenance["training"],
        dataset_key=provenance["dataset"],
        record=read_record(folder, manifest),
    )
