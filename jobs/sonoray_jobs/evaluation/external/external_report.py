"""From the answers of a validation to its values, curves and page."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sonoray.files.json_files import write_json
from sonoray.metrics import AnswerRecord, Bootstrap
from sonoray_jobs.evaluation.external.asking import Asked
from sonoray_jobs.evaluation.external.mapping import TopicMap
from sonoray_jobs.evaluation.external.remarks import make_remarks
from sonoray_jobs.evaluation.external.subgroups import choose_groups
from sonoray_jobs.evaluation.external.summary_tables import METRICS
from sonoray_jobs.evaluation.external.validation_page import render_page
from sonoray_jobs.evaluation.external.verdict import TopicVerdict, judge_topic
from sonoray_jobs.evaluation.predictions import to_record

if TYPE_CHECKING:
    from sonoray_jobs.evaluation.external.exported_model import ExportedModel
    from sonoray_jobs.road.config import RoadConfig

PAGE, VALUES = "validation.html", "validation.json"


def judge_all(
    predictions: Sequence[Mapping[str, Any]],
    asked: Asked,
    model: "ExportedModel",
    maps: Mapping[str, TopicMap],
    road: "RoadConfig",
) -> tuple[list[TopicVerdict], dict[str, str]]:
    """Judge every topic.

    Args:
        predictions: the answers to all questions.
        asked: what was asked of whom.
        model: holds the internal test and the training answers.
        maps: which labels held a truth.
        road: `evaluate` and `external` say how it is judged.

    Returns:
        The figures by topic, and by label why it was left out of the breakdown.

    Raises:
        DataError: a setting names a label or an option that there is not.
    """
    answers: defaultdict[str, list[AnswerRecord]] = defaultdict(list)
    internal: defaultdict[str, list[AnswerRecord]] = defaultdict(list)
    for row in predictions:
        answers[row["topic"]].append(to_record(row))
    for record in model.record.internal_test:
        internal[record.topic].append(record)
    own = {topic: {topic, maps[topic].account.name} for topic in answers}
    groups, left_out = choose_groups(
        asked.studies,
        wanted=road.external.breakdown,
        truths=set().union(*own.values()),
    )
    settings = road.evaluate
    verdicts = [
        judge_topic(
            topic,
            records,
            internal[topic],
            {label: each for label, each in groups.items() if label not in own[topic]},
            training_answers=model.record.facts.topics[topic].answers,
            positive=settings.positive_options.get(topic),
            bootstrap=Bootstrap(num_resamples=settings.bootstrap_samples, seed=settings.seed),
            least_patients=road.external.least_patients,
        )
        for topic, records in answers.items()
    ]
    return verdicts, left_out


def to_values(
    model: "ExportedModel",
    asked: Asked,
    maps: Mapping[str, TopicMap],
    verdicts: Sequence[TopicVerdict],
    *,
    dataset: str,
    dataset_key: str,
    split: str,
) -> dict[str, Any]:
    """Return the content of `validation.json`, but for what `judge_all` left out."""
    accounts = {topic: each.account for topic, each in maps.items()}
    remarks = make_remarks(
        model,
        dataset=dataset,
        same_dataset=dataset_key == model.dataset_key,
        seen=asked.seen,
        accounts=accounts,
        verdicts=verdicts,
    )
    return {
        "model": {
            "name": model.name,
            "digest": model.digest,
            "training": model.training,
            "run_id": model.run_id,
            "training_patients": model.record.facts.num_training_patients,
        },
        "dataset": {"name": dataset, "key": dataset_key, "split": split},
        "studies": asked.counts(),
        "seen": asked.seen.to_json(),
        "accounts": {topic: account.to_json() for topic, account in accounts.items()},
        "remarks": [asdict(remark) for remark in remarks],
        "topics": {verdict.topic: verdict.to_json() for verdict in verdicts},
    }


def write_report(folder: Path, values: Mapping[str, Any], verdicts: Sequence[TopicVerdict]) -> None:
    """Write values, curves and page into `folder`."""
    from llava_ultra.export.manifest import NOTICE
    from sonoray.metrics.external.curve_plots import plot_curves

    write_json(folder / VALUES, dict(values))
    curves = {}
    for number, verdict in enumerate(verdicts):  # a topic may be called anything
        curves[verdict.topic] = folder / f"curves-{number}.png"
        plot_curves(verdict.calibration, verdict.risks, verdict.decisions, curves[verdict.topic])
    plain = json.loads((folder / VALUES).read_text(encoding="utf-8"))
    (folder / PAGE).write_text(render_page(plain, curves, NOTICE), encoding="utf-8")


def topic_headlines(verdicts: Sequence[TopicVerdict], prefix: str) -> dict[str, float]:
    """What the run's page in MLflow shows."""
    return {
        f"{prefix}/{verdict.topic}/{metric}": estimate.value
        for verdict in verdicts
        for metric in METRICS
        if (estimate := verdict.external.get(metric)) is not None
    }
