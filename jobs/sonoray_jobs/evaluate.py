"""Evaluate: answer a split's questions, keep every prediction, judge with intervals by patient.

The output is a content-addressed stage: `predictions.parquet` (one row per question), the tables as
text and Markdown, and the metrics in its manifest. Metrics and tables also go to the training's
MLflow run; predictions hold patients' texts and do not leave the stage.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sonoray.errors import DataError
from sonoray.metrics import (
    AnswerRecord,
    Bootstrap,
    closed_metrics,
    closed_table,
    text_metrics,
    text_table,
)
from sonoray.stages import Stage, StageOutput, run_stage
from sonoray.study import Study, iter_studies
from sonoray.workspace import Workspace
from sonoray_jobs.embed import open_stores
from sonoray_jobs.lengths import check_lengths, judged, read_tokenizer
from sonoray_jobs.road import RoadConfig
from sonoray_jobs.train import Trained, find_training

_CODE = ("sonoray.metrics", "sonoray_jobs.answering", "sonoray_jobs.evaluate", "llava_ultra")


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluated:
    """The results of one split."""

    output: StageOutput
    split: str

    @property
    def summary(self) -> Mapping[str, Any]:
        """Counts and metrics, as in the stage's manifest."""
        summary: Mapping[str, Any] = self.output.manifest["summary"]
        return summary

    def lines(self) -> list[str]:
        """What a person reads."""
        rate = self.summary["hit_rate"]
        hits = [] if rate is None else [f"sampled image shows the finding: {rate:.3f} of answers"]
        return [
            f"{self.split}: {self.summary['num_questions']} questions of "
            f"{self.summary['num_studies']} studies, 95 % intervals over patients",
            *(self.output.path / "closed.txt").read_text(encoding="utf-8").splitlines(),
            "",
            *(self.output.path / "text.txt").read_text(encoding="utf-8").splitlines(),
            *hits,
            f"predictions: {self.output.path / 'predictions.parquet'}",
        ]

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        return {"split": self.split, "path": str(self.output.path), **self.summary}


def run(
    *,
    workspace: Workspace,
    road: RoadConfig,
    dataset: str,
    split: str = "test",
    address: str | None = None,
    tracking_uri: str | None = None,
) -> Evaluated:
    """Evaluate the road's trained model on a split.

    Raises:
        DataError: the training is not finished, the split is unknown or empty, or a text of it does
            not fit the context.
        ClusterError: Ray cannot be reached, is too small or too busy.
        TrackingError: MLflow cannot be reached or does not know the training.
    """
    output = workspace.dataset(dataset)
    trained = find_training(workspace, road, dataset)
    studies = list(iter_studies(output.path, split=split))
    if not studies:
        raise DataError(f"dataset {dataset!r} has no {split} studies; ingest more patients")
    stage = Stage(
        name=f"evaluate-{dataset}-{split}",
        config=road.evaluate.model_dump(mode="json"),
        inputs=[output.key, trained.name],
        code=_CODE,
    )
    result = run_stage(
        stage,
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
    return Evaluated(output=result, split=split)


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

    from sonoray.tracking import Tracking

    tracking = Tracking.open(workspace, tracking_uri)  # first: it may be down or another
    tracking.require_run(trained.run_id)
    predictions = _answer(workspace, road, dataset, trained, studies, address)
    pq.write_table(pa.Table.from_pylist(predictions), folder / "predictions.parquet")
    training_answers: dict[str, list[str]] = defaultdict(list)
    for study in iter_studies(workspace.dataset(dataset).path, split="train"):
        for turn in study.turns:
            training_answers[turn.topic].append(turn.answer)
    records = [_record(row) for row in predictions]
    bootstrap = Bootstrap(num_resamples=road.evaluate.bootstrap_samples, seed=road.evaluate.seed)
    closed = closed_metrics(
        [record for record in records if record.options],
        training_answers=training_answers,
        positive=road.evaluate.positive_options,
        bootstrap=bootstrap,
    )
    free = text_metrics(
        [record for record in records if not record.options],
        training_answers=training_answers,
        bootstrap=bootstrap,
    )
    for name, table in (("closed", closed_table(closed)), ("text", text_table(free))):
        (folder / f"{name}.txt").write_text("\n".join(table.text()) + "\n", encoding="utf-8")
        (folder / f"{name}.md").write_text("\n".join(table.markdown()) + "\n", encoding="utf-8")
    known = [row["shows_finding"] for row in predictions if row["shows_finding"] >= 0]
    generated_right = [
        row["generated"] == row["truth"] for row in predictions if row["task"] == "closed"
    ]
    metrics = {
        "num_studies": len(studies),
        "num_questions": len(predictions),
        "closed": {item.topic: item.to_json() for item in closed},
        "text": {item.topic: item.to_json() for item in free},
        "hit_rate": sum(known) / len(known) if known else None,
        "generated_exact": sum(generated_right) / max(1, len(generated_right)),
    }
    split = studies[0].split
    tracking.log_evaluation(
        trained.run_id,
        {split: metrics},
        {f"evaluation/{split}/{name}": folder / name for name in ("closed.md", "text.md")},
    )
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

    from sonoray.cluster import ray_session, require_cpus
    from sonoray.progress import progress
    from sonoray_jobs.answering import AnswerActor, pack_studies
    from sonoray_jobs.trained import locate

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


def _record(row: Mapping[str, Any]) -> AnswerRecord:
    scores = json.loads(row["option_scores"])
    return AnswerRecord(
        study_id=row["study_id"],
        patient_key=row["patient_key"],
        topic=row["topic"],
        truth=row["truth"],
        answer=row["answer"],
        options=tuple(scores),
        option_scores=scores,
    )
