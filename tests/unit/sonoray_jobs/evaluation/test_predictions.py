"""Names of an evaluation in MLflow."""

import pytest

from sonoray_jobs.evaluation.predictions import shown_name
from sonoray_jobs.road.config import EvaluateConfig


def name(split="test", trained_with=None, **settings):
    return shown_name(
        split,
        EvaluateConfig(**settings).model_dump(mode="json"),
        EvaluateConfig(**(trained_with or {})).model_dump(mode="json"),
    )


def test_under_the_settings_of_the_training_a_name_is_the_split_and_the_chosen_labels():
    assert name() == "test"
    assert name("validation") == "validation"
    assert name(only={"organ": "liver"}) == "test-organ.liver"
    assert name(only={"left": "yes"}) != name(only={"right": "yes"})
    assert name(max_tokens=32, trained_with={"max_tokens": 32}) == "test"
    assert name(actors=9, actor_cpus=2) == "test"


def test_a_training_of_before_a_setting_keeps_the_names_of_its_evaluations():
    settings = EvaluateConfig().model_dump(mode="json")
    before = {key: value for key, value in settings.items() if key != "precision"}
    assert shown_name("test", settings, before) == "test"
    assert shown_name("test", settings | {"precision": "bfloat16"}, before) != "test"


@pytest.mark.parametrize(
    "settings",
    [
        {"max_tokens": 32},
        {"topics": ("margin",)},
        {"positive_options": {"pathology": "恶性"}},
        {"bootstrap_samples": 1000},
        {"seed": 1},
    ],
)
def test_each_other_setting_has_a_name_of_its_own(settings):
    assert name(**settings).startswith("test-")
    assert name(**settings) != name(**settings, only={"organ": "liver"})
    assert len({name(**settings), name(max_tokens=31), name()}) == 3
    assert name(**settings) == name(**settings)
