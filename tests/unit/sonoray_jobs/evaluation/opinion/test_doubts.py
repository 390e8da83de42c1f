"""Who is asked what: candidates, exemplars of other patients, and never more than the cap."""

import numpy as np
import pytest

from sonoray.errors import DataError
from sonoray.study.contract import Study, StudyImage, Task, Turn
from sonoray_jobs.evaluation.opinion.doubts import (
    Doubt,
    candidates_of,
    check_size,
    draw_check,
    prompts_of,
    within,
)
from sonoray_jobs.evaluation.opinion.library import Library
from sonoray_jobs.evaluation.opinion.prompts import Prompt
from sonoray_jobs.evaluation.probing.linear import asked_of
from sonoray_jobs.evaluation.probing.pooling import PooledStudy
from sonoray_jobs.road.config import OpinionConfig

OPTIONS = ("甲", "乙", "丙")


def pooled(number, answer, place, *, patient=None):
    """A study whose pictures lie at an angle of the features' plane."""
    turn = Turn(question="?", answer=answer, task=Task.CLOSED, options=OPTIONS, topic="kind")
    study = Study(
        study_id=f"s{number}", patient_key=patient or f"p{number}", split="test", dataset="d",
        images=(StudyImage(image_id=f"i{number}", uri="", width=8, height=8),), turns=(turn,),
    )  # fmt: skip
    features = np.array([[np.cos(place), np.sin(place)]], np.float32)
    return PooledStudy(study=study, towers={"clip": features})


STUDIES = [
    pooled(0, "甲", 0.0),
    pooled(1, "甲", 0.1, patient="p0"),
    pooled(2, "甲", 0.2),
    pooled(3, "甲", 3.0),
    pooled(4, "乙", 0.3),
    pooled(5, "乙", 0.5),
    pooled(6, "丙", 2.5),
    pooled(7, "甲", 0.05),
]
ASKED = asked_of(STUDIES, "kind", ("clip",))
SUSPECT = np.array([False] * 7 + [True])


def test_exemplars_are_the_nearest_of_other_patients_and_suspect_ones_the_last():
    library = Library(ASKED, SUSPECT)
    found = [each.study_id for each in library.nearest(0, ["甲"], 5)]
    assert found == ["s2", "s3", "s7"]
    assert [each.study_id for each in library.nearest(0, ["乙", "丙"], 2)] == ["s4", "s5"]


def test_each_option_gets_a_right_and_a_wrong_exemplar():
    library = Library(ASKED, SUSPECT)
    doubt = Doubt(place=0, candidates=("甲", "乙"))
    prompts = prompts_of("exemplars", doubt, library, 2)
    named = [(each.option, [own.study_id for own in each.exemplars]) for each in prompts]
    assert named == [
        ("甲", ["s2", "s4"]),
        ("甲", ["s3", "s5"]),
        ("乙", ["s4", "s2"]),
        ("乙", ["s5", "s3"]),
    ]
    assert [each.option for each in prompts_of("statement", doubt, library, 2)] == ["甲", "乙"]
    assert prompts_of("options", doubt, library, 2) == [Prompt(way="options")]


def test_candidates_are_the_answer_the_suggestion_and_what_the_matrix_confuses():
    taken_for = {"甲": 0.6, "乙": 0.1, "丙": 0.3}
    assert candidates_of("甲", "乙", OPTIONS, taken_for, 2) == ("甲", "乙")
    assert candidates_of("甲", "", OPTIONS, taken_for, 2) == ("甲", "丙")
    assert candidates_of("甲", "乙", OPTIONS, taken_for, 9) == ("甲", "乙", "丙")


def test_the_check_draws_every_answer_and_nobody_who_may_not_be():
    drawn = draw_check(ASKED, ~SUSPECT, 5, seed=0)
    assert list(drawn) == sorted(set(drawn))
    assert len(drawn) == 5
    assert set(ASKED.truths[drawn]) == set(OPTIONS)
    assert 7 not in draw_check(ASKED, ~SUSPECT, 99, seed=0)


def test_the_check_takes_half_of_the_calls_and_too_few_are_refused():
    settings = OpinionConfig(check=48, calls=200)
    assert check_size(settings, ["options"], 200) == 48
    assert check_size(settings, ["exemplars", "statement", "options"], 200) == 11
    with pytest.raises(DataError, match=r"opinion.calls leaves 100 calls.* to \d+ or more"):
        check_size(settings, ["exemplars", "statement", "options"], 100)
    raised = OpinionConfig(calls=244)
    assert check_size(raised, ["exemplars", "statement", "options"], 144) == 8


def test_doubts_are_asked_about_in_their_order_while_calls_are_left():
    one = Prompt(way="options")
    prompts = [[one, one], [one], [one, one]]
    assert [within(prompts, left) for left in (0, 1, 2, 3, 4, 5)] == [0, 0, 1, 2, 2, 3]
