"""What each format of the feature store does to a trained model's answers.

Run after `sonoray train` or `sonoray ablate`, with their options:
`.venv/bin/python bench/feature_formats.py --config evidence --set train.seed=0`

The features of the test split, as the road's store has them, are encoded and decoded in each format
and answered from by the same model (`sonoray evaluate`'s code). Per format: bytes an image; the
features' error (root mean square over root mean square of the features); of the questions how many
answers differ from those of the store's own format; closed accuracy; how often the picked image
differs, and shows the finding.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sonoray.features.formats import FORMATS, FeatureFormat, Features
from sonoray.features.store import FeatureStore
from sonoray.metrics import Bootstrap
from sonoray.metrics.picks import hit_rate
from sonoray.study.contract import Study, iter_studies
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation.ablation.parallel import place
from sonoray_jobs.evaluation.answer import AnswerActor, pack_studies
from sonoray_jobs.evaluation.predictions import to_pick
from sonoray_jobs.outputs.find import find_made, open_stores
from sonoray_jobs.road.config import load_road
from sonoray_jobs.towers.feature_source import FeatureSource
from sonoray_jobs.training.restore import load_trained

BATCH = 16


@dataclass
class RoundTrip:
    """A store as it would read in another format."""

    store: FeatureStore
    kept: FeatureFormat
    squared_error: float = 0.0
    squared: float = 0.0

    def read(self, ids: Sequence[str]) -> Features:
        """The store's features, encoded and decoded once."""
        features = self.store.read(ids)
        back = self.kept.decode(self.kept.encode(features))
        self.squared_error += float(np.square(back.astype(np.float64) - features).sum())
        self.squared += float(np.square(features.astype(np.float64)).sum())
        return back


def main() -> None:
    """Print one line a format."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", type=Path, default=Path(".sonoray"))
    parser.add_argument("--config", default="tiny")
    parser.add_argument("--dataset", default="phantom")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    given = parser.parse_args()
    workspace = Workspace.open(given.workspace)
    road = place(load_road(given.config, given.overrides))
    made = find_made(workspace, road, given.dataset)
    stores = open_stores(workspace, road, given.dataset)
    folder = workspace.dataset(given.dataset).path
    studies = list(iter_studies(folder, split="test"))
    own = road.embed.dtype
    print(f"run {made.trained.run_id}, {len(studies)} test studies, store of {own}")
    reference: list[dict[str, Any]] = []
    for name in (own, *(other for other in FORMATS if other != own)):
        trips = {tower: RoundTrip(store, FORMATS[name]) for tower, store in stores.items()}
        actor = AnswerActor(
            partial(load_trained, made.located),
            road.evaluate,
            FeatureSource(dataset=folder, stores=trips),  # type: ignore[arg-type]  # reads alone
            "cpu",
        )
        rows = answer(actor, studies)
        reference = reference or rows
        per_image = sum(
            store.shape[0] * FORMATS[name].bytes_per_token(store.shape[1])
            for store in stores.values()
        )
        print(f"{name:>8}: {per_image:,} bytes an image, {summary(rows, reference, trips)}")


def answer(actor: AnswerActor, studies: Sequence[Study]) -> list[dict[str, Any]]:
    """One row per question."""
    rows = []
    for start in range(0, len(studies), BATCH):
        packed = pack_studies(list(studies[start : start + BATCH]))
        columns = actor({"study": [row["study"] for row in packed]})
        rows += [
            dict(zip(columns, values, strict=True))
            for values in zip(*columns.values(), strict=True)
        ]
    return rows


def summary(
    rows: list[dict[str, Any]], reference: list[dict[str, Any]], trips: dict[str, RoundTrip]
) -> str:
    """What a format changed."""
    errors = ", ".join(
        f"{tower} {(trip.squared_error / trip.squared) ** 0.5:.5f}" for tower, trip in trips.items()
    )
    pairs = list(zip(rows, reference, strict=True))
    changed = sum(row["answer"] != other["answer"] for row, other in pairs)
    picks = sum(row["selected"] != other["selected"] for row, other in pairs)
    closed = [row for row in rows if row["task"] == "closed"]
    right = sum(row["answer"] == row["truth"] for row in closed) / len(closed)
    rate = hit_rate([to_pick(row) for row in rows], Bootstrap())
    hits = f", hit {rate.value:.4f}" if rate else ""
    shift = max(
        abs(value - json.loads(other["option_scores"])[option])
        for row, other in pairs
        for option, value in json.loads(row["option_scores"]).items()
    )
    return (
        f"error {errors}; {changed} of {len(rows)} answers and {picks} picks differ, largest "
        f"change of a log-likelihood {shift:.4f}; closed {right:.4f}{hits}"
    )


if __name__ == "__main__":
    main()
