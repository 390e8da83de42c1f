"""From answers to an evaluation's tables, metrics and pictures, with intervals by patient."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sonoray.files.json_files import write_json
from sonoray.metrics import (
    Bootstrap,
    all_closed_metrics,
    closed_metrics,
    closed_table,
    text_metrics,
    text_table,
)
from sonoray.metrics.plots import plot_closed, plot_roc
from sonoray.metrics.resampling import estimate, mean_metric
from sonoray.metrics.tables import Table, f1_table, overlap_table, seen_table
from sonoray_jobs.evaluation.predictions import (
    share_showing,
    to_record,
)
from sonoray_jobs.road.config import EvaluateConfig

if TYPE_CHECKING:
    from sonoray_jobs.road.config import EvaluateConfig


def write_report(
    folder: Path,
    predictions: Sequence[Mapping[str, Any]],
    training_answers: Mapping[str, Sequence[str]],
    settings: "EvaluateConfig",
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
