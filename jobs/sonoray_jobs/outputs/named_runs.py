"""Trainings by name: which one `--run` means, with which settings, and what it stands on.

A training is named by its name, by its title in MLflow, by its MLflow run id, or by the beginning
of one of them. All of it is read from the workspace; neither Ray nor MLflow is asked. What a
finished training stands on (dataset, towers, language model) is found by the keys that its manifest
holds and not by those that today's code would give it: a model stays usable after an update.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sonoray.config.canonical import changed_settings
from sonoray.config.load import apply_overrides, validate_config
from sonoray.errors import ConfigError, DataError
from sonoray.stages import MANIFEST, StageOutput, read_manifest
from sonoray.tracking.run_id import RUN_ID_FILE
from sonoray.workspace import Workspace
from sonoray_jobs.outputs.find import Made, Trained, find_made
from sonoray_jobs.outputs.part_keys import parts_of
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.road.placement import TRAINING_PLACEMENT

_DECISIVE = {"ingest", "phantom", "dicom", "dicomweb", "video", "model", "bootstrap", "train"}
"""Sections of a road that made a training, so that a later command cannot change them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedRun:
    """A training that a name may mean."""

    name: str
    run_id: str
    """MLflow run."""
    title: str = ""
    """What MLflow's pages call it; empty where nobody knows any more."""
    folder: Path | None = None
    """Output of its stage; None where it is not finished."""

    def answers_to(self, wanted: str) -> bool:
        """Whether `wanted` is the beginning of one of its names."""
        return any(name.startswith(wanted) for name in self._names)

    def is_called(self, wanted: str) -> bool:
        """Whether `wanted` is one of its names."""
        return wanted in self._names

    @property
    def _names(self) -> Sequence[str]:
        return [name for name in (self.name, self.run_id, self.title) if name]


def known_runs(workspace: Workspace) -> list[NamedRun]:
    """All trainings of a workspace, finished or not, by name."""
    found = {}
    for file in workspace.runs.glob(f"*/{RUN_ID_FILE}"):
        name = file.parent.name
        found[name] = NamedRun(name=name, run_id=file.read_text(encoding="utf-8").strip())
    for path in workspace.stages.glob(f"train-*/{MANIFEST}"):
        summary = read_manifest(path.parent)["summary"]
        found[summary["name"]] = NamedRun(
            name=summary["name"],
            run_id=summary["run_id"],
            title=summary.get("title", ""),
            folder=path.parent,
        )
    return [found[name] for name in sorted(found)]


def match_run(runs: Sequence[NamedRun], wanted: str) -> NamedRun:
    """Return the one training that a name means.

    Raises:
        DataError: none or several do; the message lists those that there are.
    """
    fitting = [run for run in runs if wanted and run.answers_to(wanted)]
    fitting = [run for run in fitting if run.is_called(wanted)] or fitting
    if not fitting:
        known = ", ".join(run.name for run in runs) or "none yet: run sonoray train"
        raise DataError(
            f"no training or MLflow run {wanted!r} in this workspace (trainings there: {known})"
        )
    if len(fitting) > 1:
        names = ", ".join(run.name for run in fitting)
        raise DataError(f"{wanted!r} fits several trainings: {names}; say more")
    return fitting[0]


def find_run(workspace: Workspace, wanted: str) -> Made:
    """Return a finished training by its name, with the settings that it was trained with.

    Raises:
        DataError: there is none of that name, it is not finished or of before settings were kept,
            or what it stands on is gone.
        ConfigError: its settings are those of another version.
    """
    workspace.require()
    run = match_run(known_runs(workspace), wanted)
    if run.folder is None:
        raise DataError(
            f"training {run.name!r} is not finished; run sonoray train with its --config and --set"
        )
    output = StageOutput(path=run.folder, manifest=read_manifest(run.folder), reused=True)
    trained = Trained.read(output)
    if not trained.road:
        raise DataError(
            f"training {run.name!r} is of before settings were kept with it; give its --config and "
            "--set in place of --run"
        )
    road = validate_config(RoadConfig, trained.road, f"settings of training {run.name!r}")
    dataset_key, *part_keys = output.manifest["inputs"]
    dataset = workspace.dataset(trained.dataset)
    if dataset.key != dataset_key:
        raise DataError(
            f"dataset {trained.dataset!r} was ingested anew since training {run.name!r}; train on "
            "it with --config and --set, or ingest what it was"
        )
    parts = {
        part: _part(workspace, part, key, run.name)
        for part, key in zip(sorted(parts_of(road)), part_keys, strict=True)
    }
    return Made(
        road=road.model_copy(update={"dataset": trained.dataset}),
        dataset=trained.dataset,
        output=dataset,
        parts=parts,
        trained=trained,
    )


def made_by(workspace: Workspace, road: RoadConfig, dataset: str, run: str | None) -> Made:
    """Return the finished training that a command means: the one that is named, or the road's.

    Args:
        workspace: where it lies.
        road: the settings; of a training that is named, as `road_of_run` gives them.
        dataset: name of the dataset.
        run: what it is called; None where the settings say which one it is.

    Raises:
        DataError: it was never finished, or what it stands on is gone.
        ConfigError: the training that is named is of another dataset.
    """
    if run is None:
        return find_made(workspace, road, dataset)
    made = find_run(workspace, run)
    if made.dataset != dataset:
        raise ConfigError(
            f"--run {made.trained.name} was trained on dataset {made.dataset!r}, not {dataset!r}; "
            f"to judge it there, export it and run: sonoray validate MODEL --dataset {dataset}"
        )
    return replace(made, road=road)


def road_of_run(workspace: Workspace, wanted: str, overrides: Sequence[str]) -> RoadConfig:
    """The settings of a finished training, with those of later steps changed.

    Args:
        workspace: where it lies.
        wanted: its name, title or MLflow run id, or the beginning of one.
        overrides: `KEY=VALUE` each.

    Raises:
        DataError: as for `find_run`.
        ConfigError: an override does not fit, or would make another training.
    """
    made = find_run(workspace, wanted)
    values = made.road.model_dump(mode="json")
    origin = " ".join(f"--set {text}" for text in overrides)
    changed = validate_config(RoadConfig, apply_overrides(values, overrides), origin or wanted)
    others = changed_settings(_decisive(made.road), _decisive(changed))
    if others or changed.dataset != made.dataset:
        names = ", ".join(others) or "dataset"
        raise ConfigError(
            f"--set {names} would be another training than --run {made.trained.name}; leave it "
            "out, or give --config and --set in place of --run"
        )
    return changed


def _decisive(road: RoadConfig) -> Mapping[str, Any]:
    return road.model_dump(
        mode="json", include=_DECISIVE, exclude={"train": set(TRAINING_PLACEMENT)}
    )


def _part(workspace: Workspace, part: str, key: str, training: str) -> StageOutput:
    folder = workspace.stages / f"bootstrap-{part}-{key[:12]}"
    if not (folder / MANIFEST).is_file():
        raise DataError(
            f"the {part} part of training {training!r} is gone from {str(folder)!r}; run sonoray "
            "bootstrap and sonoray train with its --config and --set"
        )
    return StageOutput(path=folder, manifest=read_manifest(folder), reused=True)
