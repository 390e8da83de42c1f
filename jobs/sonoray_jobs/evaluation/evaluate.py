"""Evaluate: answer a split's questions, keep every prediction, judge with intervals by patient.

The output is a content-addressed stage: `predictions.parquet` (one row per question), the tables as
text and Markdown, pictures of the scores, and the metrics in its manifest. What holds numbers alone
also goes to the training's MLflow run. Predictions, the constant texts and the gallery (`gallery`)
hold patients' texts and images and do not leave the workspace.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sonoray.config.canonical import content_hash
from sonoray.errors import DataError
from sonoray.metrics import (
    Bootstrap,
    Estimate,
    all_closed_metrics,
    closed_metrics,
    closed_table,
    text_metrics,
    text_table,
)
from sonoray.metrics.plots import plot_closed, plot_history, plot_roc
from sonoray.metrics.resampling import estimate, mean_metric
from sonoray.metrics.tables import Table, f1_table, overlap_table, seen_table
from sonoray.stages import StageOutput, run_stage, write_json
from sonoray.study.contract import Study, iter_studies
from sonoray.study.labels import describe_labels
from sonoray.study.prompt import with_site_cue
from sonoray.workspace import Workspace
from sonoray_jobs.data.context_length import check_lengths, judged, read_tokenizer
from sonoray_jobs.evaluation.gallery import make_gallery
from sonoray_jobs.evaluation.predictions import (
    SETTINGS,
    answer_settings,
    headlines,
    share_showing,
    to_record,
)
from sonoray_jobs.outputs import Trained, evaluation_stage, find_training, open_stores
from sonoray_jobs.road.config import EvaluateConfig, RoadConfig
from sonoray_jobs.training.studies import iter_training_studies

DEFAULT_GALLERY = 6
"""Studies in the gallery."""

_LOGGED = ("closed.md", "text.md", "metrics.json", "scores.png", "roc.png")
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
    address: str | None = None,
    tracking_uri: str | None = None,
) -> Evaluated:
    """Evaluate the road's trained model on a split, and show `gallery` studies of it.

    Raises:
        DataError: the training is not finished, the split is unknown or empty, or a text of it does
            not fit the context.
        ClusterError: Ray cannot be reached, is too small or too busy.
        TrackingError: MLflow cannot be reached or does not know the training.
    """
    output = workspace.dataset(dataset)
    trained = find_training(workspace, road, dataset)
    studies = list(iter_studies(output.path, split=split, only=road.evaluate.only))
    if not studies:
        only = road.evaluate.only
        if only:
            labels = ", ".join(f"{label} {value}" for label, value in only.items())
            known = describe_labels(output.path, split=split, wanted=only)
            raise DataError(f"dataset {dataset!r} has no {split} studies of {labels}; {known}")
        raise DataError(f"dataset {dataset!r} has no {split} studies; ingest more patients")
    if road.evaluate.topics:
        everyone = iter_studies(output.path, split=split)
        topics = {turn.topic for study in everyone for turn in study.turns}
        studies = asked_about(studies, road.evaluate.topics, topics)
    if road.train.site_cue:  # as it was trained
        studies = [with_site_cue(study) for study in studies]
    result = run_stage(
        evaluation_stage(road, dataset, output, trained, split),
        workspace.stages,
        lambda folder: _evaluate(
            folder,
            workspace,
            road,
            dataset,
            trained,
            studies,
            address=address,
            tracking_uri=tracking_uri,
        ),
    )
    shown = (
        make_gallery(result, output.path, workspace.stages, num_studies=gallery)
        if gallery > 0
        else None
    )
    return Evaluated(output=result, split=split, gallery=shown)


def asked_about(
    studies: Sequence[Study], topics: Sequence[str], known: Collection[str]
) -> list[Study]:
    """Studies with their questions of some topics only.

    Args:
        studies: those to be evaluated.
        topics: what to ask about.
        known: what the split's studies are asked about.

    Raises:
        DataError: a topic is unknown, or none of these studies is asked about any.
    """
    if unknown := sorted(set(topics).difference(known)):
        raise DataError(
            f"evaluate.topics {unknown} are asked of no study; use some of {sorted(known)}"
        )
    kept = [
        replace(study, turns=tuple(turn for turn in study.turns if turn.topic in topics))
        for study in studies
    ]
    kept = [study for study in kept if study.turns]
    if not kept:
        raise DataError(f"none of the studies is asked about {sorted(topics)}; name other topics")
    return kept


def write_report(
    folder: Path,
    predictions: Sequence[Mapping[str, Any]],
    training_answers: Mapping[str, Sequence[str]],
    settings: EvaluateConfig,
) -> dict[str, Any]:
    """Judge predictions, write tables and pictures into `folder`, return counts and metrics.

    Args:
        folder: gets `closed` and `text` as .txt and .md, `metrics.json`, `scores.png` and
            `roc.png` where there is what they show, and `constant_texts.json`.
        predictions: rows as `AnswerActor` gives them.
        training_answers: the true answers of the training split, by topic.
        settings: positive options and bootstrap.
    """
    records = [to_record(row) for row in predictions]
    bootstrap = Bootstrap(num_resamples=settings.bootstrap_samples, seed=settings.seed)
    closed = closed_metrics(
        records,
        training_answers=training_answers,
        positive=settings.positive_options,
        bootstrap=bootstrap,
    )
    overall = all_closed_metrics(records, training_answers=training_answers, bootstrap=bootstrap)
    free = text_metrics(records, training_answers=training_answers, bootstrap=bootstrap)
    _write_tables(folder / "closed", closed_table(closed, overall), {"F1": f1_table(closed)})
    details = {
        "Constant answer, and truths seen in training": seen_table(free),
        "Overlap by character and by word": overlap_table(free),
    }
    _write_tables(folder / "text", text_table(free), details)
    write_json(folder / "constant_texts.json", {item.topic: item.constant_answer for item in free})
    if closed:
        plot_closed(closed, folder / "scores.png")
        plot_roc(records, closed, folder / "roc.png")
    generated_right = [
        row["generated"] == row["truth"] for row in predictions if row["task"] == "closed"
    ]
    metrics = {
        "num_studies": len({row["study_id"] for row in predictions}),
        "num_questions": len(predictions),
        "closed": {item.topic: item.to_json() for item in closed},
        "all_closed": overall.to_json() if overall else None,
        "text": {item.topic: item.to_json() for item in free},
        "hit_rate": _hit_rate(predictions, "shows_finding", bootstrap),
        "chance_hit_rate": _hit_rate(
            [{**row, "share": share_showing(row)} for row in predictions], "share", bootstrap
        ),
        "attention_hit_rates": {
            topic: rate
            for topic in sorted({row["topic"] for row in predictions})
            if (rate := _hit_rate(predictions, "attention_finding", bootstrap, topic)) is not None
        },
        "generated_exact": float(np.mean(generated_right)) if generated_right else None,
    }
    write_json(folder / "metrics.json", metrics)
    return metrics


def _hit_rate(
    predictions: Sequence[Mapping[str, Any]],
    column: str,
    bootstrap: Bootstrap,
    topic: str | None = None,
) -> dict[str, Any] | None:
    """Share of the picks that show the finding, where one is known and an image was left out."""
    rows = [
        row
        for row in predictions
        if topic in (None, row["topic"])
        and 1 in row["showing"]
        and row[column] >= 0
        and len(row["selected"]) < len(row["image_ids"])
    ]
    shown = mean_metric(np.array([row[column] for row in rows], dtype=np.float64))
    rate = estimate(shown, [row["patient_key"] for row in rows], bootstrap)
    return rate.to_json() if rate else None


def _write_tables(path: Path, table: Table, details: Mapping[str, Table]) -> None:
    """Write the compact table as text, and as Markdown with the detailed ones below it."""
    page = table.markdown()
    for title, detail in details.items():
        page += ["", f"{title}:", "", *detail.markdown()]
    for suffix, lines in ((".txt", table.text()), (".md", page)):
        path.with_suffix(suffix).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _evaluate(
    folder: Path,
    workspace: Workspace,
    road: RoadConfig,
    dataset: str,
    trained: Trained,
    studies: Sequence[Study],
    *,
    address: str | None,
    tracking_uri: str | None,
) -> dict[str, Any]:
    """Write the output into `folder` and log it: a stage that MLflow missed is not finished."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from sonoray.tracking.connection import open_store
    from sonoray.tracking.runs import log_results, metric_history, require_run

    store = open_store(workspace, tracking_uri)  # first: it may be down or another
    require_run(store, trained.run_id)
    predictions = _answer(workspace, road, dataset, trained, studies, address)
    pq.write_table(pa.Table.from_pylist(predictions), folder / "predictions.parquet")
    write_json(folder / SETTINGS, answer_settings(road))
    training_answers: dict[str, list[str]] = defaultdict(list)
    for study in iter_training_studies(workspace.dataset(dataset).path, road.train):
        for turn in study.turns:
            training_answers[turn.topic].append(turn.answer)
    metrics = write_report(folder, predictions, training_answers, road.evaluate)
    shown = "-".join([studies[0].split, *road.evaluate.only.values()])
    if road.evaluate.topics:  # else it would overwrite parts of the whole evaluation
        shown += f"-topics-{content_hash(sorted(road.evaluate.topics))[:6]}"
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
    road: RoadConfig,
    dataset: str,
    trained: Trained,
    studies: Sequence[Study],
    address: str | None,
) -> list[dict[str, Any]]:
    """All predictions, in the order of studies and their questions."""
    import ray

    from sonoray.cluster.progress import progress
    from sonoray.cluster.session import ray_session, require_cpus
    from sonoray_jobs.evaluation.answer import AnswerActor, pack_studies
    from sonoray_jobs.training.restore import locate

    settings = road.evaluate
    model = locate(workspace, road, dataset, trained)
    check_lengths(read_tokenizer(model.language), studies, road.model, judged)
    num_questions = sum(len(study.turns) for study in studies)
    num_batches = max(1, len(studies) // settings.batch_size)
    num_actors = min(settings.actors, num_batches)
    with ray_session(address):
        require_cpus(
            num_actors * settings.actor_cpus,
            "evaluation",
            num_gpus=num_actors * settings.actor_gpus,
        )
        answers = ray.data.from_items(
            pack_studies(list(studies)), override_num_blocks=num_batches
        ).map_batches(
            AnswerActor,
            fn_constructor_kwargs={
                "parts": model,
                "stores": open_stores(workspace, road, dataset),
                "device": "cuda" if settings.actor_gpus else "cpu",
            },
            batch_size=settings.batch_size,
            compute=ray.data.ActorPoolStrategy(size=num_actors),
            num_cpus=settings.actor_cpus,
            num_gpus=settings.actor_gpus,
        )
        rows = list(progress(answers.iter_rows(), "answer questions", total=num_questions))
    if len(rows) != num_questions:
        raise DataError(f"{len(rows)} of {num_questions} answers came back; run evaluate again")
    place = {study.study_id: position for position, study in enumerate(studies)}
    return sorted(rows, key=lambda row: place[row["study_id"]])
