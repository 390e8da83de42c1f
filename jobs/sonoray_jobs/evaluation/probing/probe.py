"""Probe: linear probes of each tower on a split's closed questions, beside the model's answers.

What no tower knows, no language model can answer; what a probe has and the answer has not was lost
on the way. The output is a content-addressed stage: the probes' answers and the suspect answers
stay in the workspace. The towers run on Ray where their features are not stored.
"""

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sonoray.errors import DataError
from sonoray.metrics import AnswerRecord, Bootstrap
from sonoray.metrics.answers import most_frequent
from sonoray.stages import Stage, StageOutput, run_stage
from sonoray.study.contract import SPLITS, Study, Task, iter_studies
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation.finished import Evaluation, find_evaluation
from sonoray_jobs.evaluation.predictions import read_predictions, to_record
from sonoray_jobs.evaluation.probing.pooling import PooledStudy, pool_studies
from sonoray_jobs.evaluation.probing.topic_report import judge_topic, topics_table
from sonoray_jobs.evaluation.questions import asked_about
from sonoray_jobs.outputs.find import find_parts
from sonoray_jobs.outputs.named_runs import find_run
from sonoray_jobs.outputs.stores import TOWERS, tower_fingerprints
from sonoray_jobs.road.config import RoadConfig

if TYPE_CHECKING:
    from sonoray.stages import StageOutput as Dataset

PROBES = {"clip": ("clip",), "sam": ("sam",), "both": TOWERS}
"""By name, the towers of each probe."""
_SUSPECTS = "suspects.csv"
_COLUMNS = ("probe", "study_id", "patient_key", "topic", "truth", "answer", "option_scores")
"""Of `predictions.parquet`, which `sonoray_jobs.evaluation.predictions` reads."""
_CODE = (
    "sonoray_jobs.evaluation.probing.probe",
    "sonoray_jobs.evaluation.probing.pooling",
    "sonoray_jobs.evaluation.probing.linear",
    "sonoray_jobs.evaluation.probing.suspects",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Probed:
    """What the towers know."""

    output: StageOutput
    split: str
    model: str
    """Name of the training whose answers stand beside; empty where none was asked for."""
    values: Mapping[str, Any]

    def lines(self) -> list[str]:
        """What a person reads."""
        counts = self.values["suspects"]
        lines = [
            f"{self.split}: {self.values['num_studies']} studies, 95 % intervals over patients"
            + (f"; model: {self.model}" if self.model else ""),
            *topics_table(self.values).text(),
        ]
        lines += [
            f"{topic}: no probe, {reason}" for topic, reason in self.values["left_out"].items()
        ]
        told = ", ".join(f"{topic} {number}" for topic, number in counts.items()) or "none"
        return [
            *lines,
            f"suspect answers, of all splits: {told}; see {self.output.path / _SUSPECTS}",
        ]

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        return {
            "split": self.split,
            "model": self.model,
            "path": str(self.output.path),
            **self.values,
        }


def run(
    *,
    workspace: Workspace,
    road: RoadConfig,
    dataset: str,
    split: str = "test",
    run: str | None = None,
    address: str | None = None,
) -> Probed:
    """Fit and judge the probes.

    Args:
        workspace: where everything lies.
        road: its towers are probed; `evaluate.only` and `evaluate.topics` choose.
        dataset: name of the dataset.
        split: whose studies are asked; training patients are learned from.
        run: a finished training whose evaluation of the split is held against the probes, and
            whose towers are probed.
        address: Ray cluster.

    Raises:
        DataError: the dataset is not ingested or asks no closed question, the towers are not
            made, or the training was not evaluated.
        ClusterError: Ray cannot be reached, is too small or too busy.
    """
    if split not in SPLITS[1:]:
        raise DataError(
            f"split {split!r} is none to judge probes on; choose {' or '.join(SPLITS[1:])}"
        )
    output = workspace.dataset(dataset)
    against = find_evaluation(workspace, run, split) if run else None
    if against and against.dataset_key != output.key:
        raise DataError(
            f"training {against.training!r} was evaluated on another ingest of {dataset!r}; run "
            f"sonoray evaluate --run {against.training}"
        )
    # a training's towers, by its manifest: they may be of code before today's
    parts = (
        find_run(workspace, against.training).parts
        if against
        else find_parts(workspace, road, dataset)
    )
    fingerprints = tower_fingerprints(parts)
    evaluate = road.evaluate
    stage = Stage(
        name=f"probe-{dataset}-{split}",
        config={
            "only": evaluate.only,
            "topics": list(evaluate.topics),
            "positive_options": evaluate.positive_options,
            "bootstrap": [evaluate.bootstrap_samples, evaluate.seed],
            "features": road.embed.dtype,
        },
        inputs=[
            output.key,
            *(fingerprints[tower] for tower in TOWERS),
            str(against.path.name) if against else "",
        ],
        code=_CODE,
    )

    def make(folder: Path) -> dict[str, Any]:
        studies = _studies(output, road, split)
        pooled = pool_studies(workspace, road, output, parts, studies, address)
        return _judge(folder, pooled, road, split, against)

    result = run_stage(stage, workspace.stages, make)
    return Probed(
        output=result,
        split=split,
        model=against.training if against else "",
        values=result.manifest["summary"],
    )


def _studies(output: "Dataset", road: RoadConfig, split: str) -> list[Study]:
    """All studies with closed questions alone; of the judged split those that are asked."""
    kept = []
    for each in SPLITS:
        only = road.evaluate.only if each == split else {}
        found = list(iter_studies(output.path, split=each, only=only))
        wanted = road.evaluate.topics
        if wanted and each == split:  # refuses what nobody is asked
            topics = {turn.topic for study in found for turn in study.turns}
            found = asked_about(found, wanted, topics)
        for study in found:
            turns = tuple(
                turn
                for turn in study.turns
                if turn.options
                and turn.task is not Task.CONTEXT
                and (not wanted or turn.topic in wanted)
            )
            if turns:
                kept.append(replace(study, turns=turns))
    for each in ("train", split):
        if not any(study.split == each for study in kept):
            raise DataError(f"no closed question is asked of the {each} studies; nothing to probe")
    return kept


def _judge(
    folder: Path,
    pooled: Sequence[PooledStudy],
    road: RoadConfig,
    split: str,
    against: Evaluation | None,
) -> dict[str, Any]:
    """Fit and judge, topic by topic; write answers and suspects into `folder`."""
    import logging

    import pyarrow as pa
    import pyarrow.parquet as pq

    from sonoray_jobs.evaluation.probing.linear import asked_of
    from sonoray_jobs.evaluation.probing.suspects import find_suspects

    logger = logging.getLogger(__name__)
    bootstrap = Bootstrap(num_resamples=road.evaluate.bootstrap_samples, seed=road.evaluate.seed)
    told = _model_records(against)
    train = [each for each in pooled if each.study.split == SPLITS[0]]
    judged = [each for each in pooled if each.study.split == split]
    topics: dict[str, Any] = {}
    answers: list[dict[str, Any]] = []
    suspects: list[Any] = []
    left_out: dict[str, str] = {}
    asked_topics = dict.fromkeys(turn.topic for each in judged for turn in each.study.turns)
    for number, topic in enumerate(asked_topics):
        logger.info("probe %s (%d of %d)", topic, number + 1, len(asked_topics))
        rows = _probe_answers(train, judged, topic, road.evaluate.seed)
        whole = asked_of(pooled, topic, TOWERS)
        if rows is None or whole is None:
            left_out[topic] = "its training studies have one answer, or one of a single patient"
            continue
        answers += [_to_row(name, record) for name, own in rows.items() for record in own]
        learned = [t.answer for each in train for t in each.study.turns if t.topic == topic]
        positive = road.evaluate.positive_options.get(topic)
        topics[topic] = judge_topic(rows, told, topic, positive, most_frequent(learned), bootstrap)
        suspects += find_suspects(whole, road.evaluate.seed)
    pq.write_table(
        pa.Table.from_pylist(answers, pa.schema(dict.fromkeys(_COLUMNS, pa.string()))),
        folder / "predictions.parquet",
    )
    with (folder / _SUSPECTS).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["study_id", "split", "topic", "answer", "suggested", "margin"])
        for each in suspects:
            values = each.to_json()
            writer.writerow([*list(values.values())[:-1], f"{each.margin:.3f}"])
    return {
        "num_studies": len(judged),
        "topics": topics,
        "left_out": left_out,
        "suspects": dict(Counter(each.topic for each in suspects)),
    }


def _to_row(probe: str, record: AnswerRecord) -> dict[str, str]:
    scores = json.dumps(dict(record.option_scores), ensure_ascii=False)
    kept = {name: getattr(record, name) for name in _COLUMNS[1:-1]}
    return {"probe": probe, **kept, "option_scores": scores}


def _probe_answers(
    train: Sequence[PooledStudy], judged: Sequence[PooledStudy], topic: str, seed: int
) -> dict[str, list[AnswerRecord]] | None:
    """What each probe answers; None where there is nothing to learn."""
    from sonoray_jobs.evaluation.probing.linear import asked_of, fit

    found: dict[str, list[AnswerRecord]] = {}
    for name, towers in PROBES.items():
        learned, questions = (asked_of(part, topic, towers) for part in (train, judged))
        probe = fit(learned, seed) if learned else None
        if questions is None or probe is None:
            return None
        found[name] = [
            AnswerRecord(
                study_id=each.study.study_id,
                patient_key=each.study.patient_key,
                topic=topic,
                truth=turn.answer,
                answer=max(scores, key=lambda option: scores[option]),
                options=tuple(scores),
                option_scores=scores,
            )
            for each, turn, scores in zip(
                questions.studies, questions.turns, probe.scores(questions), strict=True
            )
        ]
    return found


def _model_records(against: Evaluation | None) -> dict[tuple[str, str], AnswerRecord]:
    """The model's answers by study and topic; the first of several."""
    if against is None:
        return {}
    found: dict[tuple[str, str], AnswerRecord] = {}
    for row in read_predictions(against.path):
        record = to_record(row)
        if record.options:
            found.setdefault((record.study_id, record.topic), record)
    return found
