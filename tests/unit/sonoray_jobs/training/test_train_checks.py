import pytest

from llava_ultra.config import ModelConfig
from llava_ultra.objectives.answer import AnswerObjective
from llava_ultra.objectives.laver import LaverObjective
from llava_ultra.objectives.recognise import RecognitionObjective
from sonoray.errors import ConfigError
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.road.train_config import TrainConfig
from sonoray_jobs.training.train_checks import check_objectives


@pytest.fixture
def language(tmp_path):
    (tmp_path / "config.json").write_text('{"num_hidden_layers": 4}')
    return tmp_path


def road(*objectives, **train):
    return RoadConfig(model=ModelConfig(objectives=objectives), train=TrainConfig(**train))


@pytest.mark.parametrize("objective", [RecognitionObjective(), LaverObjective()])
def test_weights_that_are_spread_over_workers_are_refused(objective, language):
    with pytest.raises(ConfigError, match=r"which train\.zero_stage 3 spreads; set it to 2"):
        check_objectives(road(AnswerObjective(), objective, zero_stage=3), language)
    check_objectives(road(AnswerObjective(), objective, zero_stage=2), language)
    check_objectives(road(AnswerObjective(), zero_stage=3), language)


def test_a_stage_without_anything_to_learn_from_is_refused(language):
    with pytest.raises(ConfigError, match=r"train\.stages 'align' has lora = false.*\(laver\)"):
        check_objectives(road(LaverObjective()), language)
    check_objectives(road(LaverObjective(), AnswerObjective()), language)


@pytest.mark.parametrize("layer", [0, 5, -5])
@pytest.mark.parametrize("kind", [RecognitionObjective, LaverObjective])
def test_a_layer_that_the_decoder_lacks_is_refused(kind, layer, language):
    with pytest.raises(ConfigError, match=f"layer {layer} is none of this decoder's 4 layers"):
        check_objectives(road(AnswerObjective(), kind(layer=layer)), language)
    for there in (1, 4, -1, -4):
        check_objectives(road(AnswerObjective(), kind(layer=there)), language)
