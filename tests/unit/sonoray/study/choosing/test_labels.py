from pathlib import Path

import pytest

from sonoray.errors import DataError
from sonoray.study.choosing.labels import describe_labels, label_values, telling_labels
from sonoray.study.contract import Study, StudyImage, Task, Turn, write_studies


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Thirty training studies and one test study."""

    def study(number: int, split: str, **labels: str) -> Study:
        return Study(
            study_id=f"s{number}",
            patient_key=f"p{number}",
            split=split,
            dataset="clinic",
            images=(StudyImage(image_id="i", uri="x", width=8, height=8),),
            turns=(Turn(question="?", answer="a", task=Task.OPEN),),
            labels=labels,
        )

    studies = [
        study(number, "train", organ=("liver", "kidney")[number % 2], day=f"{number:02}")
        for number in range(30)
    ]
    write_studies(tmp_path, [*studies, study(30, "test", organ="breast")])
    return tmp_path


def test_the_values_are_those_of_the_split(dataset):
    assert label_values(dataset, split="train") == {
        "day": [f"{number:02}" for number in range(30)],
        "organ": ["kidney", "liver"],
    }
    assert label_values(dataset, split="test") == {"organ": ["breast"]}
    with pytest.raises(DataError, match="split 'tset' is unknown"):
        label_values(dataset, split="tset")


def test_a_message_names_values_of_known_labels_and_labels_beside_unknown_ones(dataset):
    def told(**wanted: str) -> str:
        return describe_labels(dataset, split="train", wanted=wanted)

    assert told(organ="spleen") == "organ is one of kidney, liver"
    assert told(organs="liver") == "the labels are day, organ"
    assert told(organ="x", side="y") == "organ is one of kidney, liver; the labels are day, organ"
    assert told(day="x").endswith("18, 19, and 10 more")
    assert describe_labels(dataset, split="validation", wanted={"a": "b"}) == "the labels are none"


def test_labels_of_one_value_tell_no_studies_apart(dataset):
    assert telling_labels(dataset, split="train") == "day, organ"
    assert telling_labels(dataset, split="test") == "none"
