"""Which settings of the SAM tower hold on a scanner that it has not seen: one group left out.

Run after `sonoray ingest` (no other step is needed), with its options; a variant is a name and what
it changes in the road, here the greys:
`.venv/bin/python bench/left_out_groups.py --config busbra --out left-out.jsonl --variant plain
--variant bent model.sam.intensity=quantile`

The test patients of the split are left alone. Of the others, those of one value of a label are left
out, or of several values that are too rare to stand alone (`--least`); the tower is trained on the
rest, with their masks and captions, as `sonoray bootstrap` does. A linear probe of the pooled
features (as in `sonoray probe`) learns the question from the same patients and is asked of
those left out: from the images alone, from perturbed views of them too (`views`), and asked of the
mean over views (`tta`). Several seeds of a variant are also averaged as an ensemble.

A line of `--out` is one run; runs that it holds are not repeated. BUS-BRA, one core that others use
too: 5 minutes a run with the 1,500 steps of `busbra`.
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from llava_ultra.perturbations.gallery import GALLERY, draw_view
from llava_ultra.towers.pixels import to_canvases
from llava_ultra.towers.sam import SamTower
from llava_ultra.towers.tower import encode_images, fit_standardiser
from sonoray.study.contract import Study, iter_studies
from sonoray.study.image_table import read_images
from sonoray.workspace import Workspace
from sonoray_jobs.road.config import RoadConfig, load_road
from sonoray_jobs.towers.learn_sam import make_sam

PENALTIES = (0.0003, 0.001, 0.01, 0.1)
VIEWS = 3
"""Perturbed views of an image."""
WAYS = ("images", "views", "images, tta", "views, tta")
"""What the probe learns from, and what it is asked of."""
_BATCH = 64


def main() -> None:
    """Train, probe and print every variant on every group."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", type=Path, default=Path(".sonoray"))
    parser.add_argument("--config", default="busbra")
    parser.add_argument("--dataset", default="busbra")
    parser.add_argument("--topic", default="pathology")
    parser.add_argument("--label", default="device")
    parser.add_argument("--least", type=int, default=60, help="patients of a group by itself")
    parser.add_argument("--steps", type=int, help="of the pretraining; by default the road's")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--variant", nargs="+", action="append", metavar=("NAME", "KEY=VALUE"))
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    folder = Workspace.open(given.workspace).dataset(given.dataset).path
    studies = [
        study
        for split in ("train", "validation")
        for study in iter_studies(folder, split=split)
        if any(turn.topic == given.topic for turn in study.turns)
    ]
    groups = groups_of(studies, given.label, given.least)
    images = read_images(folder, [image.image_id for study in studies for image in study.images])
    done = read_done(given.out)
    for seed in given.seeds:
        for name, *overrides in given.variant or ():
            steps = [f"bootstrap.sam.steps={given.steps}"] if given.steps else []
            road = load_road(given.config, [*overrides, *steps, f"bootstrap.sam.seed={seed}"])
            for group in sorted(set(groups)):
                key = [name, road.bootstrap.sam.steps, group, seed]
                if key in [row["key"] for row in done]:
                    continue
                started = time.process_time()
                kept = [study for study, of in zip(studies, groups, strict=True) if of != group]
                out = [study for study, of in zip(studies, groups, strict=True) if of == group]
                row = {"key": key, **run(road, folder, images, kept, out, given.topic)}
                row["cpu_s"] = round(time.process_time() - started)
                done.append(row)
                with given.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
                shown = ", ".join(f"{way} {auc_of([row], way):.3f}" for way in WAYS)
                print(*key, shown, f"{row['cpu_s']} s", flush=True)
    show(done)


def groups_of(studies: Sequence[Study], label: str, least: int) -> list[str]:
    """The group of each study: its label's value, rare ones together."""
    values = [study.labels.get(label, "") for study in studies]
    counts = Counter(values)
    rare = [value for value, count in counts.items() if count < least]
    smallest = min((value for value in counts if value not in rare), key=lambda v: counts[v])
    return [smallest if value in rare else value for value in values]


def read_done(path: Path) -> list[dict[str, Any]]:
    """Runs of an earlier call."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def run(
    road: RoadConfig,
    folder: Path,
    images: dict[str, Any],
    kept: Sequence[Study],
    left_out: Sequence[Study],
    topic: str,
) -> dict[str, Any]:
    """Train on some studies; truth and log-odds of the others, by way."""
    with tempfile.TemporaryDirectory() as scratch:
        make_sam(Path(scratch), road, folder, kept, lambda *_: None)
        tower = SamTower.load(Path(scratch))
    tower = tower.read_as(road.model.sam, target_grid=road.model.clip.grid)
    shown = [images[image.image_id][0] for study in kept for image in study.images]
    fit_standardiser(tower, to_canvases(shown, tower.image_size, tower.intensity))
    positive = road.evaluate.positive_options.get(topic)
    learned = read(tower, images, kept, topic, positive)
    asked = read(tower, images, left_out, topic, positive)
    scores: dict[str, list[float]] = {}
    for way in WAYS:
        used = slice(None) if "views" in way else slice(1)
        x, y, owner = flat(*learned, used)
        search = GridSearchCV(
            make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)),
            {"logisticregression__C": PENALTIES},
            scoring="neg_log_loss",
            cv=StratifiedGroupKFold(5),
        )
        probe = search.fit(x, y, groups=owner).best_estimator_
        x, _, owner = flat(*asked, slice(None) if "tta" in way else slice(1))
        mean = np.bincount(owner, probe.decision_function(x)) / np.bincount(owner)
        scores[way] = [round(float(value), 4) for value in mean]
    truth = asked[1][np.unique(asked[2], return_index=True)[1]]
    return {"truth": truth.astype(int).tolist(), "scores": scores}


def read(
    tower: SamTower,
    images: dict[str, Any],
    studies: Sequence[Study],
    topic: str,
    positive: str | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pooled features (N, 1 + VIEWS, D) of the images and their views, truth (N,), owner (N,)."""
    pixels, truth, owner = [], [], []
    for number, study in enumerate(studies):
        turn = next(turn for turn in study.turns if turn.topic == topic)
        for image in study.images:
            clean = images[image.image_id][0]
            seeds = [int(image.image_id[:12], 16) + view for view in range(VIEWS)]
            pixels += [clean, *(draw_view(clean, GALLERY, seed) for seed in seeds)]
            truth.append(turn.answer == (positive or turn.options[-1]))
            owner.append(number)
    pooled = []
    for at in range(0, len(pixels), _BATCH):
        tokens = encode_images(tower, pixels[at : at + _BATCH], "cpu").numpy()
        pooled.append(np.concatenate([tokens.mean(axis=1), tokens.max(axis=1)], axis=1))
    by_image = np.concatenate(pooled).reshape(len(truth), 1 + VIEWS, -1)
    return by_image, np.array(truth), np.array(owner)


def flat(
    pooled: np.ndarray, truth: np.ndarray, owner: np.ndarray, views: slice
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The chosen views of all images, one a row."""
    chosen = pooled[:, views]
    times = chosen.shape[1]
    return chosen.reshape(-1, chosen.shape[-1]), truth.repeat(times), owner.repeat(times)


def auc_of(rows: Sequence[dict[str, Any]], way: str) -> float:
    """AUC of the mean log-odds of several runs on the same studies."""
    mean = np.mean([row["scores"][way] for row in rows], axis=0)
    return float(roc_auc_score(rows[0]["truth"], mean))


def show(done: Sequence[dict[str, Any]]) -> None:
    """Of each variant and way: the mean over seeds of each group, their mean, the ensemble's."""
    groups = sorted({row["key"][2] for row in done})
    print("\nvariant, steps, way (seeds):", " | ".join(groups), "| mean | ensemble of the seeds")
    for variant in dict.fromkeys(tuple(row["key"][:2]) for row in done):
        rows = [row for row in done if tuple(row["key"][:2]) == variant]
        by_group = [[row for row in rows if row["key"][2] == group] for group in groups]
        if not all(by_group):
            continue
        for way in WAYS:
            means = [float(np.mean([auc_of([row], way) for row in own])) for own in by_group]
            together = float(np.mean([auc_of(own, way) for own in by_group]))
            cells = " | ".join(
                f"{value:.3f}" for value in [*means, float(np.mean(means)), together]
            )
            print(*variant, way, f"({min(map(len, by_group))}): {cells}")


if __name__ == "__main__":
    main()
