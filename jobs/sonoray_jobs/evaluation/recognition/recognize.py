"""Recognise: classes of a bank, found in a dataset's studies from features, without asking.

LLaVA-RadZ (arXiv 2503.07487) reads a decoder's features so. They come from the store; what it lacks
of the dataset is embedded first with the training's own towers, so that a model can be tried on a
dataset that it was not trained on. What the model reads of the studies is a stage of its own, which
other banks share. The output is a content-addressed stage: `scores.parquet` with every study's
shares, which stays in the workspace; and `recognition.json`, `calibration.json` and
`recognition.png`, which hold nothing of a patient and go to the training's MLflow run too. A
dataset without labels gets scores alone.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llava_ultra.recognition.bank import ClassBank
from llava_ultra.recognition.bank_file import load_bank
from sonoray.config.canonical import content_hash
from sonoray.errors import DataError
from sonoray.files.json_files import write_json
from sonoray.metrics import Bootstrap
from sonoray.stages import Stage, StageOutput, run_stage
from sonoray.study.contract import SPLITS, Study, iter_studies
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation.recognition.recognition_report import (
    CALIBRATION,
    FIGURES,
    PICTURE,
    SCORES,
    Split,
    figures_table,
    headlines,
    judge,
    plot_figures,
    truth_of,
    write_calibration,
    write_scores,
)
from sonoray_jobs.outputs.find import Made, find_made
from sonoray_jobs.outputs.named_runs import find_run
from sonoray_jobs.outputs.settled import settle
from sonoray_jobs.outputs.stores import tower_folders
from sonoray_jobs.road.config import RecognizeConfig, RoadConfig

if TYPE_CHECKING:
    from sonoray_jobs.evaluation.recognition.study_states import Load, StudyStates

logger = logging.getLogger(__name__)

ALL = "all"
"""Every split of the dataset."""

_CODE = (
    "sonoray_jobs.evaluation.recognition.class_scoring",
    "sonoray_jobs.evaluation.recognition.recognition_report",
    "sonoray_jobs.training.restore",
)
_READ_CODE = (
    "sonoray_jobs.evaluation.recognition.study_states",
    "sonoray_jobs.training.restore",
)
_LOGGED = (FIGURES, CALIBRATION, PICTURE, "recognition.md")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recognized:
    """What was recognised in a split."""

    output: StageOutput
    split: str
    bank: str

    @property
    def summary(self) -> Mapping[str, Any]:
        """Counts and figures, as in the stage's manifest."""
        summary: Mapping[str, Any] = self.output.manifest["summary"]
        return summary

    def lines(self) -> list[str]:
        """What a person reads."""
        summary = self.summary
        lines = [
            f"{self.split}: {summary['num_studies']} studies, {len(summary['classes'])} classes of "
            f"bank {self.bank}, 95 % intervals over patients"
        ]
        text = self.output.path / "recognition.txt"
        if text.exists():
            lines += text.read_text(encoding="utf-8").splitlines()
            lines.append(
                "best: threshold chosen on these very studies, as the papers do; F1 and accuracy "
                "before it: threshold of the validation split"
            )
        else:
            known = ", ".join(summary.get("known_labels", ()))
            lines.append(
                f"no study of it has a class of the bank ({summary['labels'] or 'no label named'}):"
                " scores alone, no figures"
                + (f"; with --set recognize.label= one of {known}" if known else "")
            )
        if not summary["num_validation"]:
            lines.append(
                "no labelled validation studies: no threshold, and shares are uncalibrated"
            )
        lines.append(f"scores: {self.output.path / SCORES}")
        return lines

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        return {"split": self.split, "path": str(self.output.path), **self.summary}


def run(
    *,
    workspace: Workspace,
    road: RoadConfig,
    dataset: str,
    classes: str,
    split: str = "test",
    run: str | None = None,
    address: str | None = None,
    tracking_uri: str | None = None,
) -> Recognized:
    """Recognise a bank's classes in a split.

    Args:
        workspace: where everything lies.
        road: the settings; sections `recognize` and `evaluate` count.
        dataset: name of the dataset.
        classes: a packaged bank by name, or a file.
        split: whose studies are judged; `all` takes every one.
        run: a finished training by name, also one on another dataset; by default the one that the
            settings mean.
        address: Ray cluster.
        tracking_uri: MLflow store; by default that of the environment or of the workspace.

    Raises:
        DataError: the training is not finished, the split is unknown or empty, or a study has a
            label of no class.
        ValueError: the bank cannot be read, or the model was not trained to recognise.
        ClusterError: Ray cannot be reached, is too small or too busy.
        TrackingError: MLflow cannot be reached or does not know the training.
    """
    if split not in (ALL, *SPLITS):
        raise DataError(f"split {split!r} is unknown; choose one of {', '.join((ALL, *SPLITS))}")
    bank = _bank(classes, road)
    output = workspace.dataset(dataset)
    made = find_made(workspace, road, dataset) if run is None else find_run(workspace, run)
    made = settle(workspace, made, tracking_uri)
    if made.road.model.recognition is None:
        raise DataError(
            f"training {made.trained.name!r} was not trained to recognise; train one with an "
            'objective of type "recognition" in model.objectives (docs/methods.md)'
        )
    studies = _studies(output, road, split)
    _check_labels(studies, bank, road.recognize.label, split)
    stage = Stage(
        name=f"recognize-{dataset}-{split}",
        config={
            "recognize": road.recognize.model_dump(mode="json"),
            "bank": content_hash(bank.model_dump(mode="json")),
            "evaluate": road.evaluate.model_dump(
                mode="json", include={"only", "precision", "bootstrap_samples", "seed"}
            ),
        },
        inputs=[output.key, made.trained.name, made.trained.run_id],
        code=_CODE,
    )

    def make(folder: Path) -> dict[str, Any]:
        return _recognize(
            folder, workspace, road, made, output, bank, studies, split, address, tracking_uri
        )

    result = run_stage(stage, workspace.stages, make)
    return Recognized(output=result, split=split, bank=bank.name)


def _bank(classes: str, road: RoadConfig) -> ClassBank:
    bank = load_bank(classes)
    label = road.recognize.label
    return bank.model_copy(update={"label": label}) if label else bank


def _check_labels(studies: Sequence[Study], bank: ClassBank, asked: str, split: str) -> None:
    """Refuse labels that cannot be judged by, before anything is read.

    Args:
        studies: of the split.
        bank: the classes.
        asked: the label that the user has named; empty for none.
        split: its name.

    Raises:
        DataError: no study has the label that is asked for, or one has a label of no class.
    """
    known = _labels_of(studies)
    if asked and asked not in known:
        raise DataError(
            f"recognize.label {asked!r} is a label of no {split} study; theirs are: "
            f"{', '.join(known) or 'none'}"
        )
    truth_of(studies, bank)


def _labels_of(studies: Sequence[Study]) -> list[str]:
    return sorted({label for study in studies for label in study.labels})


def _studies(output: StageOutput, road: RoadConfig, split: str) -> list[Study]:
    """The studies of a split that have images, whether they have texts or not."""
    every = iter_studies(
        output.path,
        split=None if split == ALL else split,
        only=road.evaluate.only,
        complete=False,
    )
    studies = [study for study in every if study.images]
    if not studies:
        raise DataError(
            f"dataset {str(output.path)!r} has no {split} studies with images"
            f"{f' of {road.evaluate.only}' if road.evaluate.only else ''}; ingest more, or choose "
            "another --split"
        )
    return studies


def _recognize(
    folder: Path,
    workspace: Workspace,
    road: RoadConfig,
    made: Made,
    output: StageOutput,
    bank: ClassBank,
    studies: Sequence[Study],
    split: str,
    address: str | None,
    tracking_uri: str | None,
) -> dict[str, Any]:
    """Write the output into `folder` and log it."""
    from sonoray.tracking.connection import open_store
    from sonoray.tracking.delivery import deliver_waiting
    from sonoray.tracking.runs import log_results, require_run

    store = open_store(workspace, tracking_uri)  # first: it may be down or another
    deliver_waiting(store, workspace.runs)
    require_run(store, made.trained.run_id)
    validation: list[Study] = []
    if split == "test" and truth_of(studies, bank) is not None:
        validation = list(iter_studies(output.path, split="validation", complete=False))
        validation = [study for study in validation if study.images]
        if validation and truth_of(validation, bank) is None:
            validation = []
    splits = {split: studies} | ({"validation": validation} if validation else {})
    scores = _scores(workspace, road, made, output, bank, splits, address)
    tested, held = (
        Split(studies=own, scores=np.array([scores[study.study_id] for study in own]))
        if own
        else None
        for own in (studies, validation)
    )
    assert tested is not None
    bootstrap = Bootstrap(num_resamples=road.evaluate.bootstrap_samples, seed=road.evaluate.seed)
    figures, curves = judge(tested, held, bank, bootstrap)
    write_scores(folder, tested, bank, curves)
    reading = road.recognize.reading
    write_calibration(folder, bank, curves, made.trained.name, reading)
    summary = {
        "num_studies": len(studies),
        "num_validation": len(validation),
        "classes": list(bank.names),
        "labels": ", ".join(bank.labels),
        "known_labels": _labels_of(studies),
        "training": made.trained.name,
        "figures": None if figures is None else figures.to_json(),
    }
    write_json(folder / FIGURES, summary)
    if figures is not None:
        table = figures_table(figures)
        for suffix, form in ((".txt", table.text()), (".md", table.markdown())):
            path = (folder / "recognition").with_suffix(suffix)
            path.write_text("\n".join(form) + "\n", encoding="utf-8")
        plot_figures(figures, folder / PICTURE)
    source = output.manifest["name"].removeprefix("ingest-")
    usual = RecognizeConfig().reading  # another one has figures of its own
    others = [value for name, value in reading.items() if value != usual[name]]
    shown = "-".join((f"recognize/{source}", split, bank.name, *others))
    artifacts = {f"{shown}/{name}": folder / name for name in _LOGGED if (folder / name).exists()}
    log_results(
        store,
        made.trained.run_id,
        {} if figures is None else headlines(figures, shown),
        artifacts,
    )
    return {**summary, "run_id": made.trained.run_id}


def _scores(
    workspace: Workspace,
    road: RoadConfig,
    made: Made,
    output: StageOutput,
    bank: ClassBank,
    splits: Mapping[str, Sequence[Study]],
    address: str | None,
) -> dict[str, list[float]]:
    """Read the studies of each split, unless they were read before, and score them."""
    from sonoray.cluster.session import ray_session
    from sonoray_jobs.evaluation.recognition.class_scoring import Reading, score_states
    from sonoray_jobs.training.restore import load_trained

    load = partial(load_trained, made.located, road.evaluate.precision)
    with ray_session(address):
        return score_states(
            [
                _states(workspace, road, made, output, split, studies, load, address)
                for split, studies in splits.items()
            ],
            load=load,
            reading=Reading(bank=bank, settings=road.recognize),
            settings=road.evaluate,
            address=address,
        )


def _states(
    workspace: Workspace,
    road: RoadConfig,
    made: Made,
    output: StageOutput,
    split: str,
    studies: Sequence[Study],
    load: "Load",
    address: str | None,
) -> "StudyStates":
    """What the model reads of a split; what the store lacks of it is embedded first."""
    from sonoray_jobs.evaluation.answer_pool import features_of
    from sonoray_jobs.evaluation.recognition.study_states import StudyStates, read_states
    from sonoray_jobs.towers.embedding import embed_dataset
    from sonoray_jobs.towers.feature_source import tower_stages

    here = replace(made, road=made.road.model_copy(update={"evaluate": road.evaluate}))
    features = features_of(workspace, here, dataset=output.path)
    embed = made.road.embed
    folders = tower_folders(made.parts)
    kept = {tower: folder for tower, folder in folders.items() if embed.keeps(tower)}
    stage = Stage(
        name=f"read-{output.manifest['name'].removeprefix('ingest-')}-{split}",
        config={
            "studies": content_hash([study.study_id for study in studies]),
            "precision": road.evaluate.precision,
            "features": embed.dtype,
        },
        inputs=[output.key, made.trained.name, made.trained.run_id],
        code=_READ_CODE,
    )

    def make(folder: Path) -> dict[str, Any]:
        if kept:
            towers = tower_stages(embed, made.road.model, kept, made.stores(workspace))
            embed_dataset(output, towers, embed, address)
        states = read_states(
            studies,
            load=load,
            trained_in=made.road.train.precision,
            settings=road.evaluate,
            features=features,
            address=address,
        )
        states.write(folder)
        return {"num_studies": len(studies)}

    return StudyStates.read(run_stage(stage, workspace.stages, make).path)
