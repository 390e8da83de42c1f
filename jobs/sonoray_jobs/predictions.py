"""What an evaluation leaves for later readers: its predictions, and the settings behind them.

`sonoray_jobs.evaluate` writes both and `sonoray_jobs.compare` reads them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sonoray.metrics import AnswerRecord
from sonoray_jobs import train
from sonoray_jobs.road import RoadConfig

PLACEMENT = {"actors", "actor_cpus", "actor_gpus"}
"""Settings that decide where answers are made, and not which."""

SETTINGS = "settings.json"
"""File of an evaluation: the settings behind its answers, for comparing it with another one."""


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


def answer_settings(road: RoadConfig) -> dict[str, Any]:
    """The settings that decide which answers a road's model gives to a dataset's questions."""
    sections: dict[str, bool | set[str]] = {
        "model": True,
        "bootstrap": True,
        "embed": {"dtype"},
        "train": True,
        "evaluate": True,
    }
    return road.model_dump(
        mode="json", include=sections, exclude={"train": train.PLACEMENT, "evaluate": PLACEMENT}
    )
