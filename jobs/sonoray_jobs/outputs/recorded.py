"""What MLflow is told of a training besides its values: the settings that made it, its dataset.

A road holds the settings of all steps, and those of the ingest as they are now. A run gets those
that made it: of the model, the pretraining of what was pretrained here, the training; and of the
ingest what the dataset's own manifest says, since a dataset that was ingested yesterday has
yesterday's split. The whole road lies beside them as a file.
"""

from typing import Any

from sonoray.stages import StageOutput
from sonoray.tracking.runs import RunDataset
from sonoray.workspace import Workspace
from sonoray_jobs.outputs.part_keys import PARTS
from sonoray_jobs.road.config import RoadConfig

_ORIGIN = {"clip": "weights", "sam": "weights", "language": "source"}
"""By part: the setting that names published weights, which are not pretrained here."""


def recorded_settings(
    workspace: Workspace, road: RoadConfig, dataset: str, output: StageOutput
) -> dict[str, Any]:
    """The settings that made a training, as nested JSON values.

    Args:
        workspace: knows where the dataset came from.
        road: its configuration.
        dataset: name of the dataset.
        output: its ingest output.
    """
    values = road.model_dump(mode="json", include={"model", "bootstrap", "train"})
    pretrained = [part for part in PARTS if not getattr(road.model, part).__dict__[_ORIGIN[part]]]
    kept = {*pretrained, *(each for each in ("dataset", "tuned") if getattr(road.bootstrap, each))}
    values["bootstrap"] = {key: each for key, each in values["bootstrap"].items() if key in kept}
    splits = output.manifest["summary"].get("splits") or {}
    made = output.manifest["config"]
    return {
        "dataset": {
            "name": dataset,
            "key": output.key[:12],
            "source": _source(workspace, dataset),
            **{split: dict(sizes) for split, sizes in splits.items()},
        },
        "ingest": made.get("ingest", {}),
        "source": made.get("source", {}),
        "embed": {"dtype": road.embed.dtype},
        **values,
    }


def run_dataset(workspace: Workspace, dataset: str, output: StageOutput) -> RunDataset:
    """The dataset as MLflow's own column shows it."""
    return RunDataset(name=dataset, digest=output.key[:36], source=_source(workspace, dataset))


def _source(workspace: Workspace, dataset: str) -> str:
    origin = workspace.dataset_pointer(dataset).get("origin") or {}
    return str(origin.get("source", ""))
