"""What the frozen towers know of a closed question: a linear probe on their pooled features.

Run after `sonoray embed`, with its options:
`.venv/bin/python bench/probe_features.py --dataset busbra --config busbra --topic pathology`

An image is the mean and the maximum of its tokens, a patient the mean of the images' logits. The
probe is a logistic regression on the training patients; its penalty is chosen by the AUC on the
validation patients. The answer of the language model can be held against it: what the probe has and
the answer has not was lost on the way. Figures in docs/results.md, 2 cores, some 20 seconds.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sonoray.feature_store import FeatureStore
from sonoray.study import Study, iter_studies
from sonoray.workspace import Workspace
from sonoray_jobs.embed import open_stores
from sonoray_jobs.road import load_road

PENALTIES = (0.001, 0.01, 0.1)
"""Inverse strengths (C) to choose from."""


def main() -> None:
    """Print the AUC of each tower, and of both together, on the test patients."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", type=Path, default=Path(".sonoray"))
    parser.add_argument("--config", default="busbra")
    parser.add_argument("--dataset", default="busbra")
    parser.add_argument("--topic", default="pathology", help="a closed question of two options")
    given = parser.parse_args()
    workspace, road = Workspace.open(given.workspace), load_road(given.config)
    stores = open_stores(workspace, road, given.dataset)
    folder = workspace.dataset(given.dataset).path
    splits = {
        split: asked(list(iter_studies(folder, split=split)), given.topic)
        for split in ("train", "validation", "test")
    }
    positive = max(study_answer(study, given.topic) for study in splits["train"])
    print(f"{given.topic}, positive {positive}; {len(splits['test'])} test studies")
    for towers in (["clip"], ["sam"], ["clip", "sam"]):
        used = [stores[tower] for tower in towers]
        scores = [score(used, splits, given.topic, positive, penalty) for penalty in PENALTIES]
        validation, test = max(scores)
        print(f"{' + '.join(towers):12} validation AUC {validation:.3f}   test AUC {test:.3f}")


def asked(studies: Sequence[Study], topic: str) -> list[Study]:
    """The studies that have this question."""
    return [study for study in studies if any(turn.topic == topic for turn in study.turns)]


def study_answer(study: Study, topic: str) -> str:
    """The true answer to the question."""
    return next(turn.answer for turn in study.turns if turn.topic == topic)


def score(
    stores: Sequence[FeatureStore],
    splits: dict[str, list[Study]],
    topic: str,
    positive: str,
    penalty: float,
) -> tuple[float, float]:
    """AUC on validation and on test studies."""

    def images(split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        pooled, truth, owner = [], [], []
        for number, study in enumerate(splits[split]):
            ids = [image.image_id for image in study.images]
            tokens = np.concatenate([store.read(ids) for store in stores], axis=-1)
            tokens = tokens.astype(np.float32)
            pooled.append(np.concatenate([tokens.mean(axis=1), tokens.max(axis=1)], axis=1))
            truth += [study_answer(study, topic) == positive] * len(ids)
            owner += [number] * len(ids)
        return np.concatenate(pooled), np.array(truth), np.array(owner)

    features, truth, _ = images("train")
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=500))
    probe.fit(features, truth)

    def auc(split: str) -> float:
        features, truth, owner = images(split)
        counts = np.bincount(owner)
        logits = np.bincount(owner, probe.decision_function(features)) / counts
        return float(roc_auc_score(np.bincount(owner, truth) > 0, logits))

    return auc("validation"), auc("test")


if __name__ == "__main__":
    main()
