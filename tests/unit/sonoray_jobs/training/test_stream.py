"""What a loading task makes of a planned step; Ray Data itself is met in tests/ray."""

from pathlib import Path

import numpy as np
import pytest

from sonoray.errors import DataError
from sonoray.features.store import FeatureStore
from sonoray.study.contract import Study, StudyImage, Turn, write_studies
from sonoray.study.sample_order import Step
from sonoray_jobs.road.config import RoadConfig, TrainConfig
from sonoray_jobs.training import stream as loading
from sonoray_jobs.training.worker import TrainJob, _train_ids

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


def make_loader(dataset: Path, stores: dict[str, FeatureStore], **changes) -> loading.StepLoader:
    settings = {"turns_per_epoch": 0, "site_cue": False, **changes}
    return loading.StepLoader(dataset=dataset, stores=stores, **settings)


def loaded(stores: dict[str, FeatureStore], dataset: Path, epoch: int, turns_per_epoch: int):
    step = Step(epoch=epoch, index=0, study_ids=tuple(COUNTS), seed=7)
    row = {"index": 0, "study_ids": list(step.study_ids), "seed": 7, "epoch": epoch}
    packed = make_loader(dataset, stores, turns_per_epoch=turns_per_epoch)(row)
    return loading._unpack(step, packed, stores)


@pytest.fixture
def _studies(tmp_path: Path) -> None:
    made = [
        Study(
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
    ]
    write_studies(tmp_path, made)


@pytest.mark.usefixtures("_studies")
def test_features_and_answers_stay_with_their_study(stores, tmp_path):
    step = loaded(stores, tmp_path, epoch=0, turns_per_epoch=0)
    for position, (study, count) in enumerate(COUNTS.items()):
        ids = [f"{study}-{number}" for number in range(count)]
        assert np.array_equal(step.features[position].clip, stores["clip"].read(ids))
        assert np.array_equal(step.features[position].sam, stores["sam"].read(ids))
        asked = [row[1:] for row in step.rows if row[0] == position]
        assert asked == [(f"{study}问{i}", f"{study}答{i}") for i in range(TURNS)]


@pytest.mark.usefixtures("_studies")
def test_an_epoch_asks_its_own_turns_of_every_study(stores, tmp_path):
    epochs = [loaded(stores, tmp_path, epoch, 2).rows for epoch in range(TURNS)]
    assert all(len(rows) == 2 * len(COUNTS) for rows in epochs)
    asked = [question for rows in epochs for _, question, _ in rows]
    # five epochs of two in a cycle of five: each twice
    assert sorted(asked) == sorted(2 * [f"{s}问{i}" for s in COUNTS for i in range(TURNS)])


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """One training study of the liver, with its site, and one of the breast, without."""
    image = StudyImage(image_id="i", uri="", width=8, height=8)
    studies = [
        Study(
            study_id=organ,
            patient_key=organ,
            split="train",
            dataset="d",
            images=(image,),
            turns=(Turn(question="大小？", answer="较大"),),
            labels={"organ": organ, **site},
        )
        for organ, site in (("liver", {"site": "肝脏"}), ("breast", {}))
    ]
    write_studies(tmp_path, studies)
    return tmp_path


def settings(**values) -> TrainConfig:
    return TrainConfig.model_validate(values)


def test_a_cued_training_reads_cued_questions(dataset):
    def ask(*study_ids, site_cue):
        stores = {}
        load = make_loader(dataset, stores, site_cue=site_cue)
        return load({"index": 0, "study_ids": study_ids, "seed": 0, "epoch": 0})["questions"]

    assert ask("liver", "breast", site_cue=False) == ["大小？", "大小？"]
    # the other one lacks the site
    assert ask("liver", site_cue=True) == ["检查部位：肝脏。大小？"]
    with pytest.raises(DataError, match=r"study 'breast' .* has no label 'site'"):
        ask("liver", "breast", site_cue=True)


def test_what_no_worker_could_train_on_is_refused_before(dataset):
    loading.training_studies(dataset, settings())
    loading.training_studies(dataset, settings(only={"organ": "breast"}))
    everyone = loading.training_studies(dataset, settings())
    assert loading.training_studies(dataset, settings(max_studies=1)) == everyone[:1]
    loading.training_studies(dataset, settings(only={"organ": "liver"}, site_cue=True))
    with pytest.raises(DataError, match=r"has the labels of train.only = \{'organ': 'kidney'\}"):
        loading.training_studies(dataset, settings(only={"organ": "kidney"}))
    with pytest.raises(DataError, match=r"study 'breast' .* set train.site_cue to false"):
        loading.training_studies(dataset, settings(site_cue=True))


def test_a_training_plans_the_studies_it_is_restricted_to(dataset):
    road = RoadConfig(train=settings(only={"organ": "liver"}))
    places = {"dataset": dataset, "language": dataset, "features": str(dataset)}
    job = TrainJob(road=road, fingerprints={}, **places)
    assert _train_ids(job) == ["liver"]
