"""Scores of document answers: which measure each task has, and what it says.

A choice is right where it is the true option, and not where it contains it.
"""

import pytest

from sonoray.documents.document_config import QUESTION_TASKS
from sonoray.metrics.reading.soft_answers import MEASURES, document_score, exact


@pytest.mark.parametrize(
    ("task", "truth", "answer", "score"),
    [
        ("table", "18.2", "病灶长径为１８.２ mm", 1),
        ("table", "18.2", "18.3", 0),
        ("choice", "低回声", "", 0),
        ("choice", "有", "没有", 0),
        ("choice", "规则", "不规则", 0),
        ("choice", "12 mm", "１２mm", 1),
        ("numeric", "2项", "2项", 1),
        ("entity", "李四", "李四", 1),
        ("entity", "李四", "王五", 0),
    ],
)
def test_an_answer_is_scored_by_its_task(task, truth, answer, score):
    assert document_score(task, truth, answer) == score


def test_short_answers_are_scored_by_their_longest_common_part():
    # P = R = 2/3, so that F is 2/3 whatever the weight of recall
    assert document_score("short", "低回声", "低强声") == pytest.approx(2 / 3)
    assert exact("低回声。", "低回声。 ") == 1
    assert exact("低回声", "低回声。") == 0
    assert set(MEASURES) == set(QUESTION_TASKS)
