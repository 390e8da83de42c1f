"""Which tuning a road takes its towers from (`bootstrap.tuned`), and whether it may.

A tuned tower has learned what its training had learned: from the training patients of its dataset,
and in its pretraining. So a road may take it that is alike in all of this. Else it could have seen
who is judged, and settings of the road would say of it what is not so.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sonoray.config.canonical import changed_settings
from sonoray.errors import DataError
from sonoray.stages import MANIFEST, StageOutput, read_manifest
from sonoray.workspace import Workspace
from sonoray_jobs.outputs.layers import READOUT
from sonoray_jobs.road.config import RoadConfig

_NAME = "tune-"


def tuning_of(road: RoadConfig, stages: Path) -> StageOutput:
    """The tuning that `bootstrap.tuned` names.

    Args:
        road: the configuration.
        stages: folder of the stages.

    Raises:
        DataError: there is none of that name.
    """
    name = road.bootstrap.tuned
    if not name.startswith(_NAME) or not (stages / name / MANIFEST).is_file():
        known = sorted(path.parent.name for path in stages.glob(f"{_NAME}*/{MANIFEST}"))
        raise DataError(
            f"bootstrap.tuned {name!r} is no tuning of this workspace (there: "
            f"{', '.join(known) or 'none yet, run sonoray tune'}); name one of them"
        )
    return StageOutput(path=stages / name, manifest=read_manifest(stages / name), reused=True)


def tuned_towers(road: RoadConfig, stages: Path) -> frozenset[str]:
    """Names of the towers that are taken out of a tuning: those that learned in it.

    Raises:
        DataError: there is no such tuning.
    """
    if not road.bootstrap.tuned:
        return frozenset()
    return frozenset(tuning_of(road, stages).manifest["summary"]["learned"])


def check_tuning(workspace: Workspace, road: RoadConfig, dataset: str) -> None:
    """Check that a road may take the tuning that it names; nothing where it names none.

    Raises:
        DataError: the tuning learned from another dataset, or from what the dataset was before it
            was ingested anew; or the road differs in what its towers learned.
    """
    if not road.bootstrap.tuned:
        return
    tuning = f"bootstrap.tuned {road.bootstrap.tuned!r}"
    summary = tuning_of(road, workspace.stages).manifest["summary"]
    if summary["dataset"] != dataset:
        raise DataError(
            f"{tuning} learned from dataset {summary['dataset']!r}, not {dataset!r}; tune a "
            f"training on {dataset!r}"
        )
    if summary["dataset_key"] != workspace.dataset(dataset).key:
        raise DataError(
            f"{tuning} learned from dataset {dataset!r} before it was ingested anew, perhaps from "
            "patients who are judged now; tune again"
        )
    changed = changed_settings(_with_defaults(summary["settings"]), settings_of(road))
    if changed:
        told = "; ".join(f"{key} {one!r}, here {two!r}" for key, (one, two) in changed.items())
        raise DataError(
            f"{tuning} learned with other settings ({told}); take those, or tune a training of "
            "these"
        )


def settings_of(road: RoadConfig) -> dict[str, Any]:
    """What a road says of what its towers have learned, and of their shapes: JSON values.

    What is read of a tower is left out.
    """
    return road.model_dump(
        mode="json",
        include={
            "model": {"clip", "sam", "towers"},
            "bootstrap": True,
            "train": {"hold_out"},
        },
        exclude={"model": dict(READOUT), "bootstrap": {"tuned"}},
    )


def _with_defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of an earlier version, with today's defaults for what it did not know."""
    values = {
        "model": settings["model"],
        "bootstrap": {**settings["bootstrap"], "tuned": ""},
        "train": settings["train"],
    }
    return settings_of(RoadConfig.model_validate(values))


def readout_of(part: str, road: RoadConfig) -> dict[str, Any]:
    """What is read of a tuned tower, as JSON values; nothing of a further one."""
    if part not in READOUT:
        return {}
    values = getattr(road.model, part).model_dump(mode="json", include=READOUT[part])
    return {**values, "target_grid": road.model.clip.grid} if part == "sam" else values
