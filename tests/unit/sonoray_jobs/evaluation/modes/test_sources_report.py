"""Where an error comes from: planted errors are found where they were put."""

import numpy as np
import pytest

from sonoray.metrics import AnswerRecord, Bootstrap
from sonoray_jobs.evaluation.modes.sources_report import (
    BETWEEN,
    LANGUAGE,
    NOTHING,
    TOWERS,
    judge_sources,
    sources_table,
)

OPTIONS = ("a", "b")
NUM = 200


def answers(topic, accuracy, seed):
    """Answers to NUM questions, a given share of them right."""
    rng = np.random.default_rng(seed)
    truths = np.arange(NUM) % 2
    right = rng.permutation(NUM) < accuracy * NUM
    found = {}
    for number, (truth, is_right) in enumerate(zip(truths, right, strict=True)):
        answer = OPTIONS[truth if is_right else 1 - truth]
        found[f"s{number}", topic] = AnswerRecord(
            study_id=f"s{number}",
            patient_key=f"p{number}",
            topic=topic,
            truth=OPTIONS[truth],
            answer=answer,
            options=OPTIONS,
            option_scores={option: float(option == answer) for option in OPTIONS},
        )
    return found


def judged(tower, language, whole, topic="pathology"):
    return judge_sources(
        answers(topic, whole, 0),
        {} if tower is None else answers(topic, tower, 1),
        {} if language is None else answers(topic, language, 2),
        {topic: ["a"]},
        {},
        Bootstrap(num_resamples=1000),
    )


@pytest.mark.parametrize(
    ("tower", "language", "whole", "source"),
    [
        (0.5, 0.9, 0.5, TOWERS),
        (0.9, 0.5, 0.6, LANGUAGE),
        (0.9, 0.9, 0.6, BETWEEN),
        (0.9, None, 0.6, BETWEEN),
        (0.9, 0.5, 0.9, NOTHING),
        (None, 0.5, 0.5, NOTHING),
    ],
)
def test_a_planted_error_is_found_where_it_is(tower, language, whole, source):
    found = judged(tower, language, whole)["topics"]["pathology"]
    assert found["source"] == source
    assert found["constant"] == 0.5
    assert found["whole"]["value"] == pytest.approx(whole)
    if tower is not None:
        assert found["whole_minus_tower"]["value"] == pytest.approx(whole - tower)


def test_a_level_counts_all_questions_of_its_topics():
    whole = answers("margin", 0.9, 0) | answers("echo", 0.7, 3) | answers("organ", 1.0, 4)
    found = judge_sources(whole, whole, {}, {}, {}, Bootstrap(num_resamples=1000))
    assert list(found["levels"]) == ["anatomy", "lesion"]
    assert found["levels"]["lesion"]["num_questions"] == 2 * NUM
    assert found["levels"]["lesion"]["whole"]["value"] == pytest.approx(0.8)
    rows = sources_table(found).rows
    assert [row[:2] for row in rows] == [
        ("anatomy", "organ"), ("anatomy", "all"),
        ("lesion", "margin"), ("lesion", "echo"), ("lesion", "all"),
    ]  # fmt: skip
    assert rows[0][5] == "-"


def test_only_questions_that_both_answered_are_compared():
    whole = answers("margin", 0.5, 0)
    tower = {key: record for key, record in whole.items() if int(key[0][1:]) < 150}
    found = judge_sources(whole, tower, {}, {}, {}, Bootstrap(num_resamples=1000))
    own = found["topics"]["margin"]
    assert own["num_tower"] == 150
    assert own["num_language"] == 0
    assert own["whole_minus_tower"]["value"] == 0
