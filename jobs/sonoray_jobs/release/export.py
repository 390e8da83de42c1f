"""Export: one folder with everything that answering needs, registered in MLflow under an alias."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sonoray.stages import run_stage
from sonoray.workspace import Workspace
from sonoray_jobs.data.leakage import wider_rule
from sonoray_jobs.outputs.find import (
    export_stage,
    find_internal_test,
    find_parts,
    find_training,
    learned_from,
    locate,
)
from sonoray_jobs.release.collect_record import RecordSources
from sonoray_jobs.release.write_model import write_model
from sonoray_jobs.road.config import RoadConfig

_PREDICTIONS = "predictions.parquet"
"""File of an evaluation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """An exported and registered model."""

    path: Path
    uri: str
    """`models:/NAME@ALIAS`."""
    version: str
    digests: Mapping[str, str]
    has_internal_test: bool
    """Whether the folder holds the answers to the internal test."""

    def lines(self) -> list[str]:
        """What a person reads."""
        rows = [f"registered {self.uri} (version {self.version}), files in {self.path}"]
        if not self.has_internal_test:
            rows.append(
                "it was not evaluated, so sonoray validate will have no internal test to compare "
                "with; sonoray evaluate and another sonoray export add it"
            )
        return rows

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        return {
            "path": str(self.path),
            "uri": self.uri,
            "version": self.version,
            "digests": dict(self.digests),
            "has_internal_test": self.has_internal_test,
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
    output, learned = workspace.dataset(dataset), learned_from(workspace, road, dataset)
    test = find_internal_test(workspace, dataset, trained)
    answers = None if test is None else test.path / _PREDICTIONS
    digest = test.manifest["files"][_PREDICTIONS] if test else ""
    stage = export_stage(road, output, trained, parts, digest)
    provenance = {name: value for name, value in stage.config.items() if name != "name"}

    def make(folder: Path) -> dict[str, Any]:
        digests = write_model(
            folder / "model",
            locate(workspace, road, dataset, trained),
            {part: found.path for part, found in parts.items()},
            name=road.export.name,
            site_cue=road.train.site_cue,
            provenance=provenance,
            record=RecordSources(
                dataset=output.path,
                learned=[output.path, learned.path],
                train=road.train,
                dtype=road.embed.dtype,
                near_duplicates=wider_rule(output, learned),
                answers=answers,
            ),
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
        has_internal_test=test is not None,
    )
