"""Export: one folder with everything that answering needs, registered in MLflow under an alias."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sonoray.stages import run_stage
from sonoray.workspace import Workspace
from sonoray_jobs.outputs.find import export_stage, find_parts, find_training, locate
from sonoray_jobs.release.write_model import write_model
from sonoray_jobs.road.config import RoadConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """An exported and registered model."""

    path: Path
    uri: str
    """`models:/NAME@ALIAS`."""
    version: str
    digests: Mapping[str, str]

    def lines(self) -> list[str]:
        """What a person reads."""
        return [f"registered {self.uri} (version {self.version}), files in {self.path}"]

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        return {
            "path": str(self.path),
            "uri": self.uri,
            "version": self.version,
            "digests": dict(self.digests),
        }


def run(
    *,
    workspace: Workspace,
    road: RoadConfig,
    dataset: str,
    tracking_uri: str | None = None,
) -> Exported:
    """Write the trained model with its manifest, register it and move the alias.

    Nothing of it needs Ray.

    Raises:
        DataError: the training is not finished.
        CheckpointError: its frozen parts have changed since.
        TrackingError: MLflow cannot be reached or does not know the training.
    """
    from sonoray.tracking.connection import open_store
    from sonoray.tracking.registry import register
    from sonoray.tracking.runs import require_run

    trained = find_training(workspace, road, dataset)
    store = open_store(workspace, tracking_uri)
    require_run(store, trained.run_id)
    parts = find_parts(workspace, road, dataset)
    stage = export_stage(road, workspace.dataset(dataset), trained, parts)
    provenance = {name: value for name, value in stage.config.items() if name != "name"}

    def make(folder: Path) -> dict[str, Any]:
        digests = write_model(
            folder / "model",
            locate(workspace, road, dataset, trained),
            {part: output.path for part, output in parts.items()},
            name=road.export.name,
            site_cue=road.train.site_cue,
            provenance=provenance,
        )
        return {"digests": digests}

    result = run_stage(stage, workspace.stages, make)
    digests = result.manifest["summary"]["digests"]
    version = register(
        store,
        result.path / "model",
        road.export.name,
        alias=road.export.alias,
        run_id=trained.run_id,
        tags={f"digest.{part}": digest[:16] for part, digest in digests.items()},
    )
    return Exported(
        path=result.path / "model",
        uri=f"models:/{road.export.name}@{road.export.alias}",
        version=str(version.version),
        digests=digests,
    )
