"""What a student says of itself: its questions by their wording, and the routing for a budget."""

import json

import numpy as np
import pytest

from llava_ultra.student.student_card import (
    CARD,
    Route,
    StudentCard,
    least_confidence,
    read_card,
    scores_of,
)

CARD_ = StudentCard(
    teacher="t",
    towers={"clip": "c"},
    topics={"pathology": ("benign", "malignant"), "echo": ("yes", "no"), "rim": ("yes", "no")},
    questions={"pathology": ("Is it benign?", "Which?"), "echo": ("Echo?",), "rim": ("Rim?",)},
)


@pytest.mark.parametrize(
    ("question", "options", "topic"),
    [
        ("Which?", ("malignant", "benign"), "pathology"),
        (" Which? ", ("malignant",), "pathology"),
        ("Rim?", ("yes", "no"), "rim"),  # the same options as those of another topic
        ("Which?", ("malignant", "unclear"), None),
        ("Who?", ("malignant", "benign"), None),
    ],
)
def test_a_topic_is_known_by_its_wording_and_its_options(question, options, topic):
    assert CARD_.topic_of(question, options) == topic


def test_a_budget_gets_the_last_route_that_it_allows():
    routes = [
        Route(least_confidence=0.9, lost=-0.01, share=0.2),
        Route(least_confidence=0.7, lost=0.01, share=0.6),
        Route(least_confidence=0.5, lost=0.04, share=1.0),
    ]
    found = [least_confidence(routes, budget) for budget in (0.0, 0.01, 0.039, 0.04, 1.0)]
    assert found == [0.9, 0.7, 0.7, 0.5, 0.5]
    assert least_confidence(routes[1:], 0.0) is None
    assert CARD_.least_confidence(1.0) is None


def test_scores_are_log_probabilities_of_the_questions_own_options():
    logits = np.log([1.0, 2.0, 5.0])
    scores = scores_of(logits, ("x", "y", "z"), ("x", "z"))
    assert np.exp(list(scores.values())) == pytest.approx([1 / 6, 5 / 6])
    unknown = scores_of(logits, ("x", "y", "z"), ("y", "w"))
    assert unknown == {"y": pytest.approx(0), "w": -30}
    assert scores_of(logits, ("x",), ("w",)) == {"w": -30}


def test_a_card_of_an_earlier_version_says_what_to_run(tmp_path):
    with pytest.raises(ValueError, match="run sonoray distil again"):
        read_card(tmp_path)
    (tmp_path / CARD).write_text(json.dumps({"shape": {"topics": {}}, "teacher": "t"}))
    with pytest.raises(ValueError, match=r"KeyError.*run sonoray distil again"):
        read_card(tmp_path)
