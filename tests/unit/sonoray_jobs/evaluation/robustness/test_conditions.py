import numpy as np
import pytest

from llava_ultra.perturbations.gallery import PERTURBATIONS
from sonoray.errors import ConfigError
from sonoray.study.contract import Study, Task, Turn
from sonoray_jobs.evaluation.robustness.conditions import STRENGTHS, make_conditions
from sonoray_jobs.evaluation.robustness.wording import WORDINGS

IMAGE = np.random.default_rng(0).integers(1, 256, (64, 64), dtype=np.uint8)
TURNS = (
    Turn(question="先前的问题是什么？", answer="是", task=Task.CONTEXT),
    Turn(question="良性还是恶性？", answer="良性", task=Task.CLOSED, options=("良性", "恶性")),
)
STUDY = Study(study_id="s1", patient_key="p", split="test", dataset="d", images=(), turns=TURNS)


def test_all_kinds_at_all_strengths_come_after_the_clean_one():
    made = make_conditions((), STRENGTHS)
    assert len(made) == 1 + (len(PERTURBATIONS) + len(WORDINGS)) * len(STRENGTHS)
    assert made.conditions[0].name == "clean"
    assert len({each.name for each in made.conditions}) == len(made)
    assert len(made.of_images()) == len(PERTURBATIONS) * len(STRENGTHS)


def test_an_image_has_its_id_where_it_is_left_alone_and_another_name_elsewhere():
    made = make_conditions(["gain", "typos"], [0.5])
    assert made.keys(["a"], 0) == made.keys(["a"], 2) == ["a"]
    (key,) = made.keys(["a"], 1)
    assert key != "a"
    assert not np.array_equal(made.draw(IMAGE, key), IMAGE)
    assert np.array_equal(made.draw(IMAGE, key), made.draw(IMAGE, key))


def test_more_strength_is_the_same_change_and_more_of_it():
    made = make_conditions(["shadow"], [0.5, 1.0])
    weak, strong = (made.draw(IMAGE, made.keys(["a"], view)[0]) for view in (1, 2))
    darkened = weak < IMAGE
    assert darkened.any()
    assert (strong[darkened] < IMAGE[darkened]).all()
    other = made.draw(IMAGE, made.keys(["b"], 2)[0])
    assert not np.array_equal(other, strong)


def test_wordings_change_what_is_asked_and_neither_answers_nor_what_was_said():
    made = make_conditions(["wrong-claim", "gain"], [1.0])
    before, asked = made.word(STUDY, 1).turns
    assert before == TURNS[0]
    assert asked.question == "外院意见：恶性。良性还是恶性？"
    assert asked.answer == "良性"
    assert made.word(STUDY, 2) == made.word(STUDY, 0) == STUDY


@pytest.mark.parametrize(
    ("kinds", "strengths", "message"),
    [
        (["fog"], [1.0], "--perturb 'fog' is unknown; use zoom"),
        ([], [0.0, 1.0], "--strengths 0 must be above 0 and at most 1"),
        ([], [1.5], "--strengths 1.5 must be"),
        ([], [0.5, 0.5], "must be different numbers"),
        ([], [], "at least one"),
        ([], [float("nan")], "--strengths nan must be"),
    ],
)
def test_what_cannot_be_judged_is_refused(kinds, strengths, message):
    with pytest.raises(ConfigError, match=message):
        make_conditions(kinds, strengths)
