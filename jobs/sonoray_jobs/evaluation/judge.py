"""From answers to an evaluation's tables, metrics and pictures, with intervals by patient."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sonoray.files.json_files import write_json
from sonoray.metrics import (
    Bootstrap,
    Estimate,
    all_closed_metrics,
    closed_metrics,
    closed_table,
    text_metrics,
    text_table,
)
from sonoray.metrics.picks import Pick, chance_rate, hit_rate
from sonoray.metrics.plots import plot_closed, plot_roc
from sonoray.metrics.tables import Table, clinical_table, f1_table, overlap_table, seen_table
from sonoray_jobs.evaluation.consistency import measure_consistency
from sonoray_jobs.evaluation.predictions import (
    to_pick,
    to_record,
    to_told_pick,
)

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
    picks = [to_pick(row) for row in predictions]
    bootstrap = Bootstrap(num_resamples=settings.bootstrap_samples, seed=settings.seed)
    closed = closed_metrics(
        records,
        training_answers=training_answers,
        positive=settings.positive_options,
        bootstrap=bootstrap,
    )
    overall = all_closed_metrics(records, training_answers=training_answers, bootstrap=bootstrap)
    free = text_metrics(records, training_answers=training_answers, bootstrap=bootstrap)
    _write_tables(
        folder / "closed",
        (closed_table(closed, overall), clinical_table(closed)),
        {"F1": f1_table(closed)},
    )
    details = {
        "Constant answer, and truths seen in training": seen_table(free),
        "Overlap by character and by word": overlap_table(free),
    }
    _write_tables(folder / "text", (text_table(free),), details)
    write_json(folder / "constant_texts.json", {item.topic: item.constant_answer for item in free})
    if closed:
        plot_closed(closed, folder / "scores.png")
        plot_roc(records, closed, folder / "roc.png")
    generated_right = [
        row["generated"] == row["truth"] for row in predictions if row["task"] == "closed"
    ]
    consistency = measure_consistency(predictions, bootstrap)
    metrics = {
        "num_studies": len({row["study_id"] for row in predictions}),
        "num_questions": len(predictions),
        "num_cut": sum(row["is_cut"] for row in predictions),
        "closed": {item.topic: item.to_json() for item in closed},
        "all_closed": overall.to_json() if overall else None,
        "text": {item.topic: item.to_json() for item in free},
        "hit_rate": _to_json(hit_rate(picks, bootstrap)),
        "chance_hit_rate": _to_json(chance_rate(picks, bootstrap)),
        "attention_hit_rates": {
            topic: rate.to_json()
            for topic, told in sorted(_told_picks(predictions).items())
            if (rate := hit_rate(told, bootstrap)) is not None
        },
        "consistency": consistency.to_json() if consistency else None,
        "generated_exact": float(np.mean(generated_right)) if generated_right else None,
    }
    write_json(folder / "metrics.json", metrics)
    return metrics


def _to_json(rate: Estimate | None) -> dict[str, Any] | None:
    return rate.to_json() if rate else None


def _told_picks(predictions: Sequence[Mapping[str, Any]]) -> dict[str, list[Pick]]:
    """By topic, what the attention score picks when it is told the answer."""
    told: defaultdict[str, list[Pick]] = defaultdict(list)
    for row in predictions:
        if (pick := to_told_pick(row)) is not None:
            told[row["topic"]].append(pick)
    return told


def _write_tables(path: Path, tables: Sequence[Table], details: Mapping[str, Table]) -> None:
    """Write compact tables as text, and as Markdown with the detailed ones below them."""
    text, page = ([line for table in tables for line in (*form(table), "")] for form in _FORMS)
    for title, detail in details.items():
        page += [f"{title}:", "", *detail.markdown(), ""]
    for suffix, lines in ((".txt", text), (".md", page)):
        path.with_suffix(suffix).write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")


_FORMS = (Table.text, Table.markdown)
