"""What a road has made of a dataset, and where it lies: the look-ups that all jobs share.

`find_*` returns a finished output, or says which command makes it; `*_stage` names it, which the
job that makes it needs as well. Nothing here starts, loads or changes anything.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llava_ultra.recognition.bank_file import load_bank
from llava_ultra.towers.mix.mix_config import KINDS
from sonoray.config.canonical import content_hash
from sonoray.errors import DataError
from sonoray.features.store import FeatureStore
from sonoray.stages import MANIFEST, Stage, StageOutput, find_stage, read_manifest
from sonoray.workspace import Workspace
from sonoray_jobs.outputs.part_keys import learned_from, parts_of, stage_of
from sonoray_jobs.outputs.stores import features_root, stores_of, tower_fingerprints
from sonoray_jobs.outputs.tuned.tuning_taken import check_tuning
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.road.placement import (
    EVALUATION_PLACEMENT,
    TRAINING_PLACEMENT,
    without_neutral,
)

CHECKPOINT = "checkpoint"
"""Folder of a finished training's checkpoint, in its output."""

TRAINING_CODE = ("sonoray_jobs.training.worker",)
"""Entry module of what decides what is learned."""

TRAINING_VERSION = 2
"""What is learned from the same settings and inputs. It is raised where a change of the code
changes that, which `test_train_loop` notices. No text of the code is part of a training's key: who
changes a comment or a message goes on with what he began."""

_EVALUATION_CODE = (
    "sonoray_jobs.evaluation.questions",
    "sonoray_jobs.training.restore",
    "sonoray_jobs.evaluation.answer",
    "sonoray_jobs.evaluation.judge",
)
_EXPORT_CODE = (
    "sonoray_jobs.release.write_model",
    "sonoray_jobs.release.model_card",
    "sonoray_jobs.release.dataset_card",
)

_ORIGINS: Mapping[str, Any] = {
    **{"clip": {"weights"}, "sam": {"weights"}, "language": {"source", "shape"}},
    "towers": {"__all__": {kind: {"weights"} for kind in KINDS}},
}
"""Where published weights lie, in `model`, and what is told of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A finished training."""

    name: str
    run_id: str
    """MLflow run."""
    checkpoint: Path
    metrics: Mapping[str, float]
    """Of the last epoch."""
    reused: bool
    elapsed_s: float | None = None
    """Wall time of the attempt that ended it."""
    evaluate: Mapping[str, Any] = field(default_factory=dict)
    """Section `evaluate` of the road that it was trained with: under it, MLflow's names of an
    evaluation are plain (`sonoray_jobs.evaluation.predictions.shown_name`)."""
    dataset: str = ""
    """Name of its dataset; empty of those that kept no settings, as `road` is then."""
    road: Mapping[str, Any] = field(default_factory=dict)
    """All settings that it was trained with, so that `--run` needs none."""
    title: str = ""
    """What MLflow's pages call it."""
    code: Mapping[str, str] = field(default_factory=dict)
    """Digests of the modules that it was learned with."""

    @classmethod
    def read(cls, output: StageOutput) -> "Trained":
        """Read the output of a training's stage."""
        summary = output.manifest["summary"]
        return cls(checkpoint=output.path / CHECKPOINT, reused=output.reused, **summary)

    def lines(self) -> list[str]:
        """What a person reads."""
        values = ", ".join(
            f"{key} {self.metrics[key]:.3f}"
            for key in self.metrics
            if key.endswith("_loss") or key == "alpha"
        )
        state = "reused" if self.reused else "trained"
        return [f"{state} {self.name}: {values}", f"MLflow run {self.run_id}"]

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        return {
            "name": self.name,
            "run_id": self.run_id,
            "checkpoint": str(self.checkpoint),
            "metrics": dict(self.metrics),
            "reused": self.reused,
            "elapsed_s": self.elapsed_s,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """A finished training, its settings, and what it stands on."""

    road: RoadConfig
    dataset: str
    """Name of the dataset."""
    output: StageOutput
    """The dataset."""
    parts: Mapping[str, StageOutput]
    """Towers and language model."""
    trained: Trained

    @property
    def located(self) -> "TrainedParts":
        """Where the parts of the model lie."""
        return TrainedParts(
            road=self.road,
            checkpoint=self.trained.checkpoint,
            language=self.parts["language"].path,
            fingerprints=tower_fingerprints(self.parts),
        )

    def stores(self, workspace: Workspace) -> dict[str, FeatureStore]:
        """Open the feature stores of its towers."""
        return stores_of(
            features_root(workspace, self.road),
            self.road.model,
            self.road.embed,
            tower_fingerprints(self.parts),
        )


def find_made(workspace: Workspace, road: RoadConfig, dataset: str) -> Made:
    """Return the finished training of a road, with what it stands on.

    Raises:
        DataError: it was never finished, or an earlier step is missing.
    """
    return Made(
        road=road,
        dataset=dataset,
        output=workspace.dataset(dataset),
        parts=find_parts(workspace, road, dataset),
        trained=find_training(workspace, road, dataset),
    )


def find_parts(workspace: Workspace, road: RoadConfig, dataset: str) -> dict[str, StageOutput]:
    """Return the finished towers and language model of a road.

    Raises:
        DataError: one was never made, the message says which command makes it; or they may not be
            used, see `learned_from` and `check_tuning`.
    """
    output = learned_from(workspace, road, dataset)
    check_tuning(workspace, road, dataset)
    fix = f"sonoray bootstrap --dataset {dataset} with the same --config and --set"
    return {
        part: find_stage(stage_of(part, road, output), workspace.stages, fix=fix)
        for part in parts_of(road)
    }


def open_stores(workspace: Workspace, road: RoadConfig, dataset: str) -> dict[str, FeatureStore]:
    """Open the feature stores of the road's towers.

    Raises:
        DataError: the towers were not bootstrapped yet.
    """
    fingerprints = tower_fingerprints(find_parts(workspace, road, dataset))
    return stores_of(features_root(workspace, road), road.model, road.embed, fingerprints)


def training_stage(
    road: RoadConfig, dataset: StageOutput, parts: Mapping[str, StageOutput]
) -> Stage:
    """The stage that trains the road's model on a dataset.

    Its key follows from what decides the outcome: settings, inputs and `TRAINING_VERSION`. One
    that goes on with another training (`train.resume`) is another stage.
    """
    resumed = {"resumed": road.train.resume} if road.train.resume else {}
    bank = road.model.recognition.bank if road.model.recognition else ""
    # without views, what would happen to them decides nothing
    seen = road.embed.model_dump(mode="json", include={"views", "perturbations"})
    towers = without_neutral("embed", {"precision": road.embed.precision})
    lowered = {f"tower_{name}": value for name, value in towers.items()}
    return Stage(
        name=f"train-{training_source(dataset)}",
        config={
            "train": without_neutral(
                "train", road.train.model_dump(mode="json", exclude={*TRAINING_PLACEMENT, "resume"})
            ),
            # where the parts' weights lie is not decisive: the parts are inputs, by content
            "model": road.model.model_dump(mode="json", exclude=_ORIGINS),
            "dtype": road.embed.dtype,
            "version": TRAINING_VERSION,
            **(seen if road.embed.views else {}),
            **lowered,
            **resumed,
            **({"bank": bank_digest(bank)} if bank else {}),
        },
        inputs=[dataset.key, *(parts[part].key for part in sorted(parts))],
    )


def bank_digest(bank: str) -> str:
    """What a bank holds, as a digest; empty for none.

    Raises:
        ValueError: it cannot be read.
    """
    return content_hash(load_bank(bank).model_dump(mode="json")) if bank else ""


def training_source(dataset: StageOutput) -> str:
    """What the trainings on a dataset are called after: the name that its ingest gave it."""
    return str(dataset.manifest["name"]).removeprefix("ingest-")


def training_name(stage: Stage) -> str:
    """What a training is called, also in MLflow: `<source>-<hash>`."""
    return stage.path(Path()).name.removeprefix("train-")


def find_training(workspace: Workspace, road: RoadConfig, dataset: str) -> Trained:
    """Return the finished training of a road.

    Raises:
        DataError: it was never finished; the message says which command does it.
    """
    try:
        parts = find_parts(workspace, road, dataset)
    except DataError as error:
        raise DataError(f"{error}{_finished(workspace)}") from None
    stage = training_stage(road, workspace.dataset(dataset), parts)
    if not stage.is_made(workspace.stages):
        raise DataError(
            f"no finished training {training_name(stage)!r} for this config; run: sonoray train "
            f"--dataset {dataset} with the same --config and --set{_finished(workspace)}"
        )
    return Trained.read(find_stage(stage, workspace.stages, fix=""))


def _finished(workspace: Workspace) -> str:
    """The finished trainings, to end a message; nothing where there are none."""
    names = sorted(path.parent.name for path in workspace.stages.glob(f"train-*/{MANIFEST}"))
    known = ", ".join(name.removeprefix("train-") for name in names)
    return f", or name a finished one with --run: {known}" if known else ""


def trained_elsewhere(workspace: Workspace, dataset: str) -> list[str]:
    """Names of the finished trainings of a workspace, where none of them is on this dataset."""
    own = training_source(workspace.dataset(dataset))
    names = [path.parent for path in workspace.stages.glob(f"train-*/{MANIFEST}")]
    if any(read_manifest(folder)["name"] == f"train-{own}" for folder in names):
        return []
    return sorted(folder.name.removeprefix("train-") for folder in names)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedParts:
    """Where the parts of a trained model lie; plain values for Ray workers."""

    road: RoadConfig
    checkpoint: Path
    language: Path
    fingerprints: dict[str, str]
    """Of the towers whose features it was trained on, by name."""


def answer_settings(road: RoadConfig) -> dict[str, Any]:
    """The settings that decide which answers a road's model gives to a dataset's questions."""
    sections: dict[str, bool | set[str]] = {
        "model": True,
        "bootstrap": True,
        "embed": {"dtype", "precision"},
        "train": True,
        "evaluate": True,
    }
    values = road.model_dump(
        mode="json",
        include=sections,
        exclude={"train": set(TRAINING_PLACEMENT), "evaluate": set(EVALUATION_PLACEMENT)},
    )
    return {section: without_neutral(section, inner) for section, inner in values.items()}


def evaluation_stage(
    road: RoadConfig, dataset: str, output: StageOutput, trained: Trained, split: str
) -> Stage:
    """The stage that evaluates a finished training on a split."""
    return Stage(
        name=f"evaluate-{dataset}-{split}",
        config=without_neutral(
            "evaluate", road.evaluate.model_dump(mode="json", exclude=set(EVALUATION_PLACEMENT))
        ),
        inputs=[output.key, trained.name, trained.run_id],
        code=_EVALUATION_CODE,
    )


def find_evaluation(
    workspace: Workspace, road: RoadConfig, dataset: str, trained: Trained, split: str
) -> StageOutput:
    """Return the finished evaluation of a training on a split of a dataset.

    Raises:
        DataError: it was never made; the message says which command makes it.
    """
    stage = evaluation_stage(road, dataset, workspace.dataset(dataset), trained, split)
    fix = f"sonoray evaluate --dataset {dataset} --split {split} with the same --config and --set"
    return find_stage(stage, workspace.stages, fix=fix)


def find_whole_evaluation(
    workspace: Workspace, dataset: str, trained: Trained, split: str
) -> StageOutput | None:
    """Return the newest evaluation of a training on a whole split; None where there is none.

    Whatever its settings: they decide what is computed of the answers, and at most the length of
    free ones. Of one of some labels or topics alone, an export would keep a part.
    """
    output = workspace.dataset(dataset)
    found = []
    for path in workspace.stages.glob(f"evaluate-{dataset}-{split}-*/{MANIFEST}"):
        manifest = read_manifest(path.parent)
        inputs, config = manifest["inputs"], manifest["config"]
        of_training = inputs == [output.key, trained.name, trained.run_id]
        if of_training and not config["only"] and not config["topics"]:
            found.append((path.stat().st_mtime_ns, path.parent, manifest))
    if not found:
        return None
    _, folder, manifest = max(found, key=lambda item: item[0])
    return StageOutput(path=folder, manifest=manifest, reused=True)


def export_stage(
    name: str,
    dataset: StageOutput,
    trained: Trained,
    parts: Mapping[str, StageOutput],
    internal_test: str = "",
    calibration: Mapping[str, Any] | None = None,
    student: StageOutput | None = None,
) -> Stage:
    """The stage that exports a finished training; its `config` is the model's provenance.

    Where it is registered and how it is served make no other model.

    Args:
        name: of the registered model.
        dataset: what it was trained on.
        trained: the finished training.
        parts: its bootstrapped parts.
        internal_test: digest of the answers to the internal test that the folder holds; empty where
            it holds none.
        calibration: how its probabilities are made, where that was fitted.
        student: goes with it.
    """
    return Stage(
        name=f"export-{name}",
        config={
            "name": name,
            "run_id": trained.run_id,
            "training": trained.name,
            "dataset": dataset.key,
        },
        inputs=[
            trained.name,
            *(parts[part].key for part in sorted(parts)),
            *([internal_test] if internal_test else []),
            *([f"calibration-{content_hash(dict(calibration))}"] if calibration else []),
            *([student.key] if student else []),
        ],
        code=_EXPORT_CODE,
    )
