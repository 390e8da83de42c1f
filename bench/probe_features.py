"""What the frozen towers know of the closed questions: linear probes on their pooled features.

Run after `sonoray embed`, with its options:
`.venv/bin/python bench/probe_features.py --dataset busbra --config busbra`

An image is the mean and the maximum of its tokens; where a dataset says which images show the
finding, the others of such a study are left out. The probe is a logistic regression on the training
patients' images, its penalty is chosen by the log-likelihood of left-out training patients (five
folds), and a study's answer is the mean of its images' logits. The answer of the language model can
be held against it: what the probe has and the answer has not was lost on the way. Figures in
docs/results.md; 2 cores, 2 seconds a topic at 1,200 images.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sonoray.errors import DataError
from sonoray.features.store import FeatureStore
from sonoray.study.contract import Study, iter_studies
from sonoray.workspace import Workspace
from sonoray_jobs.outputs.find import open_stores
from sonoray_jobs.road.config import load_road

PENALTIES = (0.001, 0.01, 0.1)
"""Inverse strengths (C) to choose from."""


@dataclass(frozen=True)
class Images:
    """Images of one split: pooled features, the answer to hold them to, and whose they are."""

    pooled: np.ndarray
    truth: np.ndarray
    owner: np.ndarray


def main() -> None:
    """Print accuracy and AUC of each tower, and of both together, on the test patients."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", type=Path, default=Path(".sonoray"))
    parser.add_argument("--config", default="busbra")
    parser.add_argument("--dataset", default="busbra")
    parser.add_argument(
        "--topic", action="append", help="closed questions; all where none is named"
    )
    given = parser.parse_args()
    workspace, road = Workspace.open(given.workspace), load_road(given.config)
    try:
        folder = workspace.dataset(given.dataset).path
        stores = open_stores(workspace, road, given.dataset)
    except DataError as error:
        print(f"nothing to probe: {error}")
        return
    splits = {split: list(iter_studies(folder, split=split)) for split in ("train", "test")}
    known = {turn.topic: None for s in splits["train"] for turn in s.turns if turn.options}
    for topic in given.topic or known:
        for towers in (["clip"], ["sam"], ["clip", "sam"]):
            used = [stores[tower] for tower in towers]
            images = {split: read(studies, topic, used) for split, studies in splits.items()}
            print(f"{topic:14} {' + '.join(towers):11} {probe(images)}", flush=True)


def read(studies: Sequence[Study], topic: str, stores: Sequence[FeatureStore]) -> Images:
    """Pool the features of the images that the question is about."""
    pooled, truth, owner = [], [], []
    for study in studies:
        answers = [turn.answer for turn in study.turns if turn.topic == topic]
        if not answers:
            continue
        shows = [image for image in study.images if image.labels.get("shows_finding") == "1"]
        ids = [image.image_id for image in shows or study.images]
        tokens = np.concatenate([store.read(ids) for store in stores], axis=-1)
        tokens = tokens.astype(np.float32)
        pooled.append(np.concatenate([tokens.mean(axis=1), tokens.max(axis=1)], axis=1))
        truth += answers * len(ids)
        owner += [len(pooled) - 1] * len(ids)
    return Images(np.concatenate(pooled), np.array(truth), np.array(owner))


def probe(splits: dict[str, Images]) -> str:
    """Fit on the training images and judge on the test studies."""
    train = splits["train"]
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)),
        {"logisticregression__C": PENALTIES},
        scoring="neg_log_loss",
        cv=StratifiedGroupKFold(5),
    )
    best = search.fit(train.pooled, train.truth, groups=train.owner).best_estimator_

    images = splits["test"]
    logs = best.predict_log_proba(images.pooled)
    sums = np.stack([np.bincount(images.owner, column) for column in logs.T], axis=1)
    mean = sums / np.bincount(images.owner)[:, None]
    shares = np.exp(mean) / np.exp(mean).sum(axis=1, keepdims=True)
    truth = images.truth[np.unique(images.owner, return_index=True)[1]]
    accuracy = accuracy_score(truth, best.classes_[shares.argmax(axis=1)])
    shown = f"{len(truth)} test studies, accuracy {accuracy:.3f}"
    if len(best.classes_) == 2:
        shown += f", AUC {roc_auc_score(truth == best.classes_[1], shares[:, 1]):.3f}"
    return shown


if __name__ == "__main__":
    main()
