from pathlib import Path

import pytest

from sonoray.errors import DataError
from sonoray.study.contract import Study, StudyImage, Turn, write_studies
from sonoray.study.study_index import StudyReader
from sonoray_jobs.road.train_config import TrainConfig
from sonoray_jobs.training.studies import iter_training_studies, training_index


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """One training study of the liver, with its site, and one of the breast, without."""
    image = StudyImage(image_id="i", uri="", width=8, height=8)
    studies = [
        Study(
            study_id=organ,
            patient_key=organ,
            split=split,
            dataset="d",
            images=(image,),
            turns=(Turn(question="大小？", answer="较大"),),
            labels={"organ": organ, **site},
        )
        for organ, split, site in (
            ("liver", "train", {"site": "肝脏"}),
            ("breast", "train", {}),
            ("kidney", "test", {"site": "肾"}),
        )
    ]
    write_studies(tmp_path, studies)
    return tmp_path


def settings(**values) -> TrainConfig:
    return TrainConfig.model_validate(values)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"max_studies": 1},
        {"only": {"organ": "liver"}},
        {"only": {"organ": "breast"}},
        {"hold_out": {"organ": ["breast", "kidney"]}},
        {"hold_out": {"site": ["肝脏"]}},
        {"hold_out": {"organ": ["liver"]}, "max_studies": 1},
    ],
)
def test_the_index_holds_the_studies_that_are_gone_through(dataset, values):
    studies = list(iter_training_studies(dataset, settings(**values)))
    index = training_index(dataset, settings(**values))
    found = StudyReader(dataset, index).read(range(len(index)))
    assert found == sorted(studies, key=lambda study: study.study_id)


def test_a_training_takes_what_it_is_restricted_to(dataset):
    def names(**values):
        return [study.study_id for study in iter_training_studies(dataset, settings(**values))]

    assert names() == ["liver", "breast"]
    assert names(max_studies=1) == ["liver"]
    assert names(only={"organ": "breast"}) == ["breast"]
    assert names(hold_out={"organ": ["breast"]}) == ["liver"]
    assert names(hold_out={"site": ["肝脏"]}) == ["breast"]


def test_the_cue_stands_before_the_question_where_it_is_asked_for(dataset):
    restricted = {"only": {"organ": "liver"}}
    (plain,) = iter_training_studies(dataset, settings(**restricted))
    (cued,) = iter_training_studies(dataset, settings(**restricted, site_cue=True))
    assert plain.turns[0].question == "大小？"
    assert cued.turns[0].question == "检查部位：肝脏。大小？"


def test_what_no_worker_could_train_on_is_refused_before(dataset):
    nobody = settings(only={"organ": "kidney"})
    with pytest.raises(DataError, match=r"has the labels of train.only = \{'organ': 'kidney'\}"):
        list(iter_training_studies(dataset, nobody))
    with pytest.raises(DataError, match=r"has the labels of train.only = \{'organ': 'kidney'\}"):
        training_index(dataset, nobody)
    with pytest.raises(DataError, match=r"study 'breast' .* set train.site_cue to false"):
        list(iter_training_studies(dataset, settings(site_cue=True)))
