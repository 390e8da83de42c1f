"""On whom it is found how far a student can be trusted."""

import numpy as np
import pytest

from llava_ultra.student.learning import learn
from llava_ultra.student.student_config import StudentConfig
from sonoray_jobs.evaluation.student.lessons import make_lessons
from sonoray_jobs.evaluation.student.trust import find_trust


def rows(split, count, *, first=0):
    """Studies whose first feature says the answer; the model is right about nine of ten."""
    made = []
    for number in range(first, first + count):
        rng = np.random.default_rng(number)
        images = rng.standard_normal((1, 3)).astype(np.float32)
        truth = "b" if images[0, 0] > 0 else "a"
        said = truth if number % 10 else ("a" if truth == "b" else "b")
        question = {
            "topic": "pathology",
            "truth": truth,
            "answer": said,
            "option_scores": {each: 0.0 if each == said else -2.0 for each in "ab"},
            "image_scores": [1.0],
        }
        made.append(
            {
                "split": split,
                "study_id": f"s{number}",
                "patient_key": f"p{number}",
                "images": images,
                "questions": [question],
                "states": rng.standard_normal((1, 4)).astype(np.float32),
            }
        )
    return made


TRAIN = rows("train", 60)
SETTINGS = StudentConfig(hidden=8, epochs=20, learning_rate=1e-2)


@pytest.mark.parametrize(
    ("unseen", "split", "chosen_on", "num_calibrated"),
    [
        (rows("validation", 40, first=60), "test", "validation", 3),
        (rows("validation", 9, first=60), "test", "left out", 0),  # too few patients
        (rows("validation", 40, first=60), "validation", "left out", 0),  # they are judged
    ],
)
def test_trust_is_found_on_patients_whom_the_student_has_not_seen(
    unseen, split, chosen_on, num_calibrated
):
    learned = learn(make_lessons(TRAIN), SETTINGS)
    found = find_trust(learned, [*TRAIN, *unseen], split, max_error_rate=0.1)
    assert found.chosen_on == chosen_on
    assert len(found.calibration) == num_calibrated  # 12 left-out patients are too few for it
    assert found.routes
    assert found.routes[-1].share <= 1


def test_without_anybody_unseen_there_is_no_routing():
    few = rows("train", 8)
    learned = learn(make_lessons(few), SETTINGS)
    found = find_trust(learned, few, "test", max_error_rate=0.1)
    assert (found.routes, found.calibration) == ((), {})
