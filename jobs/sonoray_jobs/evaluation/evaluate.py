"""Evaluate: answer a split's questions, keep every prediction, judge with intervals by patient.

The output is a content-addressed stage: `predictions.parquet` (one row per question), the tables as
text and Markdown, pictures of the scores, and the metrics in its manifest. What holds numbers alone
also goes to the training's MLflow run. Predictions, the constant texts and the gallery (`gallery`)
hold patients' texts and images and do not leave the workspace.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sonoray.errors import DataError
from sonoray.files.json_files import write_json
from sonoray.metrics import Estimate
from sonoray.metrics.plots import plot_history
from sonoray.stages import StageOutput, run_stage
from sonoray.study.contract import Study
from sonoray.study.prompt import conversation
from sonoray.workspace import Workspace
from sonoray_jobs.data.context_length import check_lengths, judged, read_tokenizer
from sonoray_jobs.evaluation.gallery import make_gallery
from sonoray_jobs.evaluation.judge import write_report
from sonoray_jobs.evaluation.predictions import SETTINGS, headlines, shown_name
from sonoray_jobs.evaluation.questions import asked_studies, training_answers
from sonoray_jobs.outputs.find import (
    Made,
    answer_settings,
    evaluation_stage,
    trained_elsewhere,
)
from sonoray_jobs.outputs.named_runs import made_by
from sonoray_jobs.outputs.settled import settle
from sonoray_jobs.road.config import RoadConfig

DEFAULT_GALLERY = 6
"""Studies in the gallery."""

_LOGGED = ("closed.md", "text.md", "metrics.json", SETTINGS, "scores.png", "roc.png")
"""Files of an evaluation that hold nothing of a patient; not every one has all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluated:
    """The results of one split."""

    output: StageOutput
    split: str
    gallery: StageOutput | None = None
    """Answers beside images; None where none was wanted."""

    @property
    def summary(self) -> Mapping[str, Any]:
        """Counts and metrics, as in the stage's manifest."""
        summary: Mapping[str, Any] = self.output.manifest["summary"]
        return summary

    def lines(self) -> list[str]:
        """What a person reads."""
        lines = [
            f"{self.split}: {self.summary['num_questions']} questions of "
            f"{self.summary['num_studies']} studies, 95 % intervals over patients"
        ]
        if self.summary["closed"]:
            lines += (self.output.path / "closed.txt").read_text(encoding="utf-8").splitlines()
            lines += [""]
        if self.summary["text"]:
            lines += (self.output.path / "text.txt").read_text(encoding="utf-8").splitlines()
        if said := self.summary["consistency"]:
            topics = ", ".join(f"{k} {Estimate(**v)}" for k, v in said["topics"].items())
            lines += [
                f"reports that say what the closed answer is: {Estimate(**said['agreement'])} of "
                f"{said['num_compared']} ({topics}); {said['num_silent']} say nothing of it"
            ]
        if cut := self.summary["num_cut"]:
            lines += [
                f"cut: {cut} of {self.summary['num_questions']} free answers reached "
                "evaluate.max_tokens or the context's end and lack theirs; they are scored as they "
                "are, raise evaluate.max_tokens"
            ]
        picks, chance = self.summary["hit_rate"], self.summary["chance_hit_rate"]
        if picks is not None:
            rates = f"{Estimate(**picks)}, a random one {chance['value']:.3f}"
            lines += [f"image sampled first shows the finding: {rates}"]
        told = self.summary["attention_hit_rates"]
        if told:
            rates = ", ".join(f"{topic} {Estimate(**rate)}" for topic, rate in told.items())
            lines += [f"attention, told the answer, picks an image that shows it: {rates}"]
        lines += [
            f"all metrics: {self.output.path / 'closed.md'}, {self.output.path / 'text.md'}",
            f"predictions: {self.output.path / 'predictions.parquet'}",
        ]
        if self.gallery is not None:
            shown = self.gallery.manifest["summary"]
            number = shown["num_studies"]
            note = "" if shown["has_texts"] else " (no font for the texts: see gallery.md)"
            lines += [f"gallery: {number} studies in {self.gallery.path}{note}"]
        return lines

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        return {
            "split": self.split,
            "path": str(self.output.path),
            "gallery": None if self.gallery is None else str(self.gallery.path),
            **self.summary,
        }


def run(
    *,
    workspace: Workspace,
    road: RoadConfig,
    dataset: str,
    split: str = "test",
    gallery: int = DEFAULT_GALLERY,
    run: str | None = None,
    address: str | None = None,
    tracking_uri: str | None = None,
) -> Evaluated:
    """Evaluate a trained model on a split, and show `gallery` studies of it.

    Args:
        workspace: where everything lies.
        road: the settings.
        dataset: name of the dataset.
        split: whose studies are asked about.
        gallery: how many are shown.
        run: a finished training by name; by default the one that the settings mean.
        address: Ray cluster.
        tracking_uri: MLflow store; by default that of the environment or of the workspace.

    Raises:
        DataError: the training is not finished, or on another dataset; the split is unknown or
            empty, or a text of it does not fit the context.
        ConfigError: the training that `run` names is of another dataset.
        ClusterError: Ray cannot be reached, is too small or too busy.
        TrackingError: MLflow cannot be reached or does not know the training.
    """
    output = workspace.dataset(dataset)
    if names := trained_elsewhere(workspace, dataset):
        raise DataError(
            f"no model was trained on dataset {dataset!r}; to judge one that was trained on "
            f"another ({', '.join(names)}), export it and run: sonoray validate --run {names[-1]} "
            f"--dataset {dataset}"
        )
    made = settle(workspace, made_by(workspace, road, dataset, run), tracking_uri)
    studies = asked_studies(output.path, road, split)
    result = run_stage(
        evaluation_stage(road, dataset, output, made.trained, split),
        workspace.stages,
        lambda folder: _evaluate(
            folder, workspace, made, studies, address=address, tracking_uri=tracking_uri
        ),
    )
    shown = (
        make_gallery(result, output.path, workspace.stages, num_studies=gallery)
        if gallery > 0
        else None
    )
    return Evaluated(output=result, split=split, gallery=shown)


def _evaluate(
    folder: Path,
    workspace: Workspace,
    made: Made,
    studies: Sequence[Study],
    *,
    address: str | None,
    tracking_uri: str | None,
) -> dict[str, Any]:
    """Write the output into `folder` and log it: a stage that MLflow missed is not finished."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from sonoray.tracking.connection import open_store
    from sonoray.tracking.delivery import deliver_waiting
    from sonoray.tracking.runs import log_results, metric_history, require_run

    road, trained = made.road, made.trained
    store = open_store(workspace, tracking_uri)  # first: it may be down or another
    deliver_waiting(store, workspace.runs)
    require_run(store, trained.run_id)
    predictions = _answer(workspace, made, studies, address)
    pq.write_table(pa.Table.from_pylist(predictions), folder / "predictions.parquet")
    write_json(folder / SETTINGS, answer_settings(road))
    learned = training_answers(made.output.path, road)
    metrics = write_report(folder, predictions, learned, road.evaluate)
    settings = road.evaluate.model_dump(mode="json")
    shown = shown_name(studies[0].split, settings, trained.evaluate)
    artifacts = {
        f"evaluation/{shown}/{name}": folder / name for name in _LOGGED if (folder / name).exists()
    }
    history = metric_history(store, trained.run_id, "alpha")
    if history:
        plot_history(history, folder / "alpha.png", limits=(0, 1))
        artifacts["training/alpha.png"] = folder / "alpha.png"
    log_results(store, trained.run_id, headlines(metrics, shown), artifacts)
    return {**metrics, "run_id": trained.run_id}


def _answer(
    workspace: Workspace,
    made: Made,
    studies: Sequence[Study],
    address: str | None,
) -> list[dict[str, Any]]:
    """All predictions, in the order of studies and their questions."""
    from sonoray_jobs.evaluation.answer_pool import answer_studies, features_of
    from sonoray_jobs.training.protocol import training_protocol
    from sonoray_jobs.training.restore import load_trained

    road = made.road
    settings = road.evaluate
    model = made.located
    protocol = training_protocol(made.output.path, road.train)
    whole, longest = protocol.longest()
    check_lengths(
        read_tokenizer(model.language),
        studies,
        road.model,
        judged,
        partial(conversation, protocol=whole, answers=longest),
    )
    return answer_studies(
        studies,
        load=partial(load_trained, model, settings.precision),
        trained_in=road.train.precision,
        settings=settings,
        features=features_of(workspace, made),
        address=address,
        protocol=protocol,
    )
