import pytest

from llava_ultra.config import ModelConfig
from llava_ultra.objectives.answer import AnswerObjective
from llava_ultra.objectives.recognise import RecognitionObjective
from sonoray.errors import ConfigError
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation.ablation.choice import Choice
from sonoray_jobs.evaluation.ablation.ways import WAYS, plan, roads_of
from sonoray_jobs.road.config import RoadConfig

OWN = RecognitionObjective(bank="breast-zh", layer=-1)


def road(*objectives) -> RoadConfig:
    return RoadConfig(model=ModelConfig(objectives=objectives or ModelConfig().objectives))


def test_three_ways_read_features_and_two_ask_one_training_in_words():
    found = dict(roads_of(road(AnswerObjective(), OWN), WAYS, 7))
    assert list(found) == ["words", "dfat", "dkam", "gmat"]
    assert {each.train.seed for each in found.values()} == {7}
    assert found["words"].model.recognition is None
    settings = {way: own.model.recognition for way, own in found.items()}
    assert settings["dfat"] == OWN.model_copy(update={"bank": ""})
    assert settings["dkam"] == OWN
    assert settings["gmat"] == OWN.model_copy(update={"pooling": "attention"})
    assert all(own.model.objectives[0] == AnswerObjective() for own in found.values())


def test_a_road_without_the_objective_gets_the_phantoms_bank():
    found = dict(roads_of(road(), ("option", "dkam"), 0))
    assert list(found) == ["words", "dkam"]
    assert found["dkam"].model.recognition == RecognitionObjective(bank="phantom-zh")
    assert found["words"].model == road().model


def test_a_setting_of_the_objective_is_a_way():
    ways = ("dkam", "image_tokens=1", "pooling=max", "temperature=0.1")
    found = dict(roads_of(road(AnswerObjective(), OWN), ways, 0))
    assert list(found) == list(ways)
    settings = [each.model.recognition for each in found.values()]
    changes = ({}, {"image_tokens": 1}, {"pooling": "max"}, {"temperature": 0.1})
    assert settings == [OWN.model_copy(update=each) for each in changes]


def test_a_value_that_the_setting_does_not_take_is_refused():
    with pytest.raises(
        ConfigError, match=r"--variants image_tokens=0: .*greater than or equal to 1"
    ):
        list(roads_of(road(AnswerObjective(), OWN), ("image_tokens=0",), 0))


@pytest.mark.parametrize("way", ["probing", "tokens=1"])
def test_an_unknown_way_is_refused(tmp_path, way):
    choice = Choice(name="recognition", dataset="d", variants=("dfat", way))
    with pytest.raises(ConfigError, match=f"--variants {way} are no ways of recognition"):
        plan(workspace=Workspace.open(tmp_path), road=road(), choice=choice)
