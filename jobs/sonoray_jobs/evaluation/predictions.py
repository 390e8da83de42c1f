"""What an evaluation leaves for later readers: predictions, the settings behind them, headlines.

`sonoray_jobs.evaluation.evaluate` writes the first two, `sonoray_jobs.evaluation.compare` and
ablations read them; the headlines go to MLflow.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sonoray.config.canonical import content_hash
from sonoray.metrics import AnswerRecord
from sonoray.metrics.picks import Pick
from sonoray_jobs.road.placement import EVALUATION_PLACEMENT, without_neutral

SETTINGS = "settings.json"
"""File of an evaluation: the settings behind its answers, for comparing it with another one."""

CLOSED_HEADLINES = ("accuracy", "balanced_accuracy", "auc")
TEXT_HEADLINES = ("exact_match", "char_f1")


def read_predictions(folder: Path) -> list[dict[str, Any]]:
    """Return the predictions of a finished evaluation, one row per question."""
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table(folder / "predictions.parquet").to_pylist()
    return rows


def to_record(row: Mapping[str, Any]) -> AnswerRecord:
    """Return what the metrics need of a prediction."""
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


def to_pick(row: Mapping[str, Any]) -> Pick:
    """Return what the metrics need of the image that the sampler put first."""
    return Pick(
        patient_key=row["patient_key"],
        showing=row["showing"],
        num_seen=len(row["selected"]),
        first=row["selected"][0],
    )


def to_told_pick(row: Mapping[str, Any]) -> Pick | None:
    """Return the pick of the attention score when it is told the answer; None where it has none."""
    told = row["attention_pick"]
    return replace(to_pick(row), first=told) if told >= 0 else None


def headlines(metrics: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """What a run's page in MLflow shows of an evaluation; `metrics.json` beside it has the rest.

    Args:
        metrics: as `sonoray_jobs.evaluation.judge.write_report` returns them.
        prefix: first part of the names, as `test`; MLflow draws the charts of a prefix together.
    """
    whole = {"hit_rate": metrics["hit_rate"], "chance_hit_rate": metrics["chance_hit_rate"]}
    if metrics["consistency"]:
        whole["consistency"] = metrics["consistency"]["agreement"]
    if metrics["all_closed"]:
        whole["accuracy"] = metrics["all_closed"]["accuracy"]
    names = {f"{prefix}/{name}": estimate for name, estimate in whole.items()}
    for topic, scores in metrics["closed"].items():
        names |= {f"{prefix}/{topic}/{name}": scores[name] for name in CLOSED_HEADLINES}
    for topic, scores in metrics["text"].items():
        names |= {f"{prefix}/{topic}/{name}": scores[name] for name in TEXT_HEADLINES}
    return {name: estimate["value"] for name, estimate in names.items() if estimate is not None}


def shown_name(split: str, settings: Mapping[str, Any], of_training: Mapping[str, Any]) -> str:
    """First part of an evaluation's names in MLflow, where all those of a run stand together.

    It is the split with the labels of `only`, as `test-organ.liver`, where all else is as the run's
    parameters say; else it ends in a hash of what differs, so that none overwrites another.

    Args:
        split: name of the split.
        settings: section `evaluate`, as JSON values.
        of_training: the section that the run was trained with.
    """
    differing = {
        key: value
        for key, value in without_neutral("evaluate", settings).items()
        if key != "only" and key not in EVALUATION_PLACEMENT and value != of_training.get(key)
    }
    chosen = [f"{key}.{value}" for key, value in sorted(settings["only"].items())]
    name = "-".join([split, *chosen])
    return f"{name}-{content_hash(differing)[:6]}" if differing else name
