import pytest

from llava_ultra.config import ModelConfig
from llava_ultra.objectives.answer import AnswerObjective
from llava_ultra.objectives.laver import LaverObjective
from llava_ultra.objectives.recognise import RecognitionObjective
from sonoray.errors import ConfigError
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.road.train_config import TrainConfig
from sonoray_jobs.training.objective_check import check_objectives


def road(*objectives, **train):
    return RoadConfig(model=ModelConfig(objectives=objectives), train=TrainConfig(**train))


@pytest.mark.parametrize("objective", [RecognitionObjective(), LaverObjective()])
def test_weights_that_are_spread_over_workers_are_refused(objective):
    with pytest.raises(ConfigError, match=r"which train\.zero_stage 3 spreads; set it to 2"):
        check_objectives(road(AnswerObjective(), objective, zero_stage=3))
    check_objectives(road(AnswerObjective(), objective, zero_stage=2))
    check_objectives(road(AnswerObjective(), zero_stage=3))


def test_a_stage_without_anything_to_learn_from_is_refused():
    with pytest.raises(ConfigError, match=r"train\.stages 'align' has lora = false.*\(laver\)"):
        check_objectives(road(LaverObjective()))
    check_objectives(road(LaverObjective(), AnswerObjective()))
