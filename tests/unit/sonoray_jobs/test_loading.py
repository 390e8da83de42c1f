"""What a loading task makes of a planned step; Ray Data itself is met in tests/ray."""

from pathlib import Path

import numpy as np
import pytest

from sonoray.feature_store import FeatureStore
from sonoray.plan import Step
from sonoray.study import Study, StudyImage, Turn
from sonoray_jobs import loading

TURNS = 5
COUNTS = {"s0": 1, "s1": 3}
"""Images of each study."""


@pytest.fixture
def stores(tmp_path: Path) -> dict[str, FeatureStore]:
    """Both towers' features, every image with numbers of its own."""
    ids = [f"{study}-{number}" for study, count in COUNTS.items() for number in range(count)]
    made = {}
    for tower, channels in (("clip", 3), ("sam", 4)):
        store = FeatureStore(tmp_path, tower * 16, num_tokens=2, num_channels=channels)
        values = np.arange(len(ids) * 2 * channels).reshape(len(ids), 2, channels)
        store.write(ids, values.astype(store.dtype))
        made[tower] = store
    return made


def loaded(stores: dict[str, FeatureStore], dataset: Path, epoch: int, turns_per_epoch: int):
    step = Step(epoch=epoch, index=0, study_ids=tuple(COUNTS), seed=7)
    row = {"index": 0, "study_ids": list(step.study_ids), "seed": 7, "epoch": epoch}
    packed = loading._load_step(
        row, dataset=dataset, stores=stores, turns_per_epoch=turns_per_epoch
    )
    return loading._unpack(step, packed, stores)


@pytest.fixture(autouse=True)
def studies(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {
        study: Study(
            study_id=study,
            patient_key=study,
            split="train",
            dataset="d",
            images=tuple(
                StudyImage(image_id=f"{study}-{number}", uri="", width=8, height=8)
                for number in range(count)
            ),
            turns=tuple(
                Turn(question=f"{study}问{i}", answer=f"{study}答{i}") for i in range(TURNS)
            ),
        )
        for study, count in COUNTS.items()
    }
    monkeypatch.setattr(loading, "_studies", lambda _: made)


def test_features_and_answers_stay_with_their_study(stores, tmp_path):
    step = loaded(stores, tmp_path, epoch=0, turns_per_epoch=0)
    for position, (study, count) in enumerate(COUNTS.items()):
        ids = [f"{study}-{number}" for number in range(count)]
        assert np.array_equal(step.features[position].clip, stores["clip"].read(ids))
        assert np.array_equal(step.features[position].sam, stores["sam"].read(ids))
        asked = [row[1:] for row in step.rows if row[0] == position]
        assert asked == [(f"{study}问{i}", f"{study}答{i}") for i in range(TURNS)]


def test_an_epoch_asks_its_own_turns_of_every_study(stores, tmp_path):
    epochs = [loaded(stores, tmp_path, epoch, 2).rows for epoch in range(TURNS)]
    assert all(len(rows) == 2 * len(COUNTS) for rows in epochs)
    asked = [question for rows in epochs for _, question, _ in rows]
    # five epochs of two in a cycle of five: each twice
    assert sorted(asked) == sorted(2 * [f"{s}问{i}" for s in COUNTS for i in range(TURNS)])
