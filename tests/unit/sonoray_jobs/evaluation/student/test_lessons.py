"""A model's answers as lessons, and a student's logits as answers."""

import numpy as np
import torch

from llava_ultra.student.network import Student, StudentShape
from sonoray_jobs.evaluation.student.lessons import (
    make_lessons,
    model_records,
    student_records,
    topics_of,
    wordings_of,
)


def question(topic, truth, scores, shares=(0.5, 0.5)):
    answer = max(scores, key=scores.get)
    return {
        "topic": topic,
        "truth": truth,
        "answer": answer,
        "option_scores": scores,
        "image_scores": list(shares),
    }


def row(number, questions, images=2):
    rng = np.random.default_rng(number)
    return {
        "study_id": f"s{number}",
        "patient_key": f"p{number}",
        "images": rng.standard_normal((images, 3)).astype(np.float32),
        "questions": questions,
        "states": rng.standard_normal((len(questions), 4)).astype(np.float32),
    }


ROWS = [
    row(0, [question("pathology", "b", {"a": -2.0, "b": -1.0}, (3.0, 1.0))]),
    row(
        1,
        [
            question("pathology", "a", {"b": -3.0, "a": -0.5}, (1.0,)),
            question("pathology", "b", {"a": 0.0, "b": -9.0}, (1.0,)),
            question("organ", "z", {"x": -1.0, "y": -2.0, "z": -3.0}, (0.0,)),
        ],
        images=1,
    ),
]


def test_lessons_hold_the_first_question_of_each_topic():
    found = make_lessons(ROWS)
    assert found.topics == {"pathology": ("a", "b"), "organ": ("x", "y", "z")}
    assert found.asked.tolist() == [[True, False], [True, True]]
    assert found.truth[:, 0].tolist() == [1, 0]
    assert found.truth[1, 1] == 2
    assert found.allowed[:, 0].tolist() == [[True, True, False]] * 2
    assert found.told[1, 0].tolist() == [-0.5, -3.0, 0.0]
    assert found.shares[0, 0].tolist() == [0.75, 0.25]
    assert found.shares[1, :, 0].tolist() == [1, 1]  # also where the sampler scores nothing
    assert found.mask.tolist() == [[True, True], [True, False]]
    known = found.states[found.asked]
    torch.testing.assert_close(known.mean(dim=0), torch.zeros(4), atol=1e-6, rtol=0)
    torch.testing.assert_close(known.std(dim=0, unbiased=False), torch.ones(4))


def test_wordings_are_those_of_several_patients_without_the_site():
    def asked(patient, text, topic="pathology"):
        told = question(topic, "a", {"a": 0.0, "b": -1.0}) | {"question": text}
        return row(patient, [told])

    rows = [
        *(asked(number, "Which?") for number in range(2)),
        *(asked(number, "检查部位：乳腺。Is it benign?") for number in range(3)),
        asked(0, "Did Ann's lump grow?"),
        asked(1, " 检查部位：肝脏。Is it benign? "),
        *(asked(number, "And the other?", "follow_up") for number in range(2)),
    ]
    assert wordings_of(rows) == {"pathology": ("Is it benign?", "Which?")}


def test_two_questions_about_one_topic_are_not_two_wordings():
    asked = [
        question("organ", "a", {"a": -0.1, "b": -2.0}) | {"question": text}
        for text in ("Is there a liver?", "Is there a lung?")
    ]
    assert wordings_of([row(number, asked) for number in range(3)]) == {}


def test_both_are_asked_the_same_questions_in_the_same_order():
    topics = {"pathology": ("a", "b")}  # what organ it is no training study was asked
    torch.manual_seed(0)
    student = Student(StudentShape(features=3, hidden=4, topics=topics)).eval()
    ours, times = student_records(student, ROWS)
    theirs = model_records(ROWS, topics)
    key = [(each.study_id, each.topic, each.truth, each.options) for each in theirs]
    assert key == [(each.study_id, each.topic, each.truth, each.options) for each in ours]
    assert [each.topic for each in ours] == ["pathology", "pathology"]
    assert [each.answer for each in theirs] == ["b", "a"]
    assert len(times) == 1
    assert times[0] > 0
    assert list(topics_of(ROWS)) == ["pathology", "organ"]
