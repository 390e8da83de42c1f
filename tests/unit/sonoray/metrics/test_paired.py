import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from sonoray.errors import DataError
from sonoray.metrics import (
    AnswerRecord,
    Bootstrap,
    closed_metrics,
    compare_all_closed,
    compare_answers,
    text_metrics,
)
from sonoray.metrics.paired import mcnemar

BENIGN, MALIGNANT = "良性", "恶性"
QUICK = Bootstrap(num_resamples=1000)


def answers(seed, *, num_patients=60, images=2, right=0.7, base=None):
    """Closed answers with scores; with `base`, the same questions answered anew."""
    generator = np.random.default_rng(seed)
    options = (BENIGN, MALIGNANT)
    truths = np.random.default_rng(99).integers(2, size=num_patients * images)
    records = []
    for number, truth in enumerate(truths):
        if base is not None and generator.random() < 0.5:  # mostly the same answers
            records.append(base[number])
            continue
        given = int(truth) if generator.random() < right else 1 - int(truth)
        margin = generator.random()
        records.append(
            AnswerRecord(
                study_id=f"s{number}",
                patient_key=f"p{number // images}",
                topic="pathology",
                truth=options[truth],
                answer=options[given],
                options=options,
                option_scores={options[given]: -1.0, options[1 - given]: -1.0 - margin},
            )
        )
    return records


def difference(first, second, metric="accuracy", **arguments):
    [found] = compare_answers(first, second, bootstrap=QUICK, **arguments)
    return found.differences[metric]


def test_each_side_has_the_value_that_its_own_evaluation_gives():
    first, second = answers(1), answers(2, right=0.8)
    [found] = compare_answers(first, second, positive={"pathology": BENIGN}, bootstrap=QUICK)
    assert list(found.differences) == [
        "accuracy", "balanced_accuracy", "macro_f1", "positive_f1", "auc",
    ]  # fmt: skip
    for side, records in (("first", first), ("second", second)):
        [own] = closed_metrics(
            records, training_answers={}, positive={"pathology": BENIGN}, bootstrap=QUICK
        )
        for name, item in found.differences.items():
            assert getattr(item, side) == getattr(own, name).value
    for item in found.differences.values():
        assert item.value == item.second - item.first
        assert item.low < item.value < item.high
        assert item.num_undefined == 0


def test_pairing_narrows_the_interval_of_the_difference():
    base = answers(3)
    other = answers(4, base=base)
    paired = difference(base, other)
    rng = np.random.default_rng(0)
    hits = np.array([[r.answer == r.truth for r in side] for side in (base, other)], float)
    by_patient = hits.reshape(2, 60, 2).mean(axis=2)
    apart = [
        by_patient[1, rng.integers(60, size=60)].mean()
        - by_patient[0, rng.integers(60, size=60)].mean()
        for _ in range(1000)
    ]
    low, high = np.quantile(apart, [0.025, 0.975])
    assert paired.high - paired.low < 0.85 * (high - low)


def test_the_interval_is_that_of_drawing_patients_with_both_answers():
    first, second = answers(5), answers(6, right=0.9)
    found = difference(first, second)
    hits = [np.array([r.answer == r.truth for r in side], float) for side in (first, second)]
    change = (hits[1] - hits[0]).reshape(60, 2).mean(axis=1)
    rng = np.random.default_rng(1)
    draws = change[rng.integers(60, size=(20_000, 60))].mean(axis=1)
    assert [found.low, found.high] == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.02)
    assert found.value == pytest.approx(change.mean())


def test_p_values_of_equal_and_of_different_answers():
    first = answers(7)
    same = difference(first, first)
    assert (same.value, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    better = [replace(record, answer=record.truth) for record in first]
    assert difference(first, better).p_value == pytest.approx(2 / 1001)
    assert difference(better, first).p_value == pytest.approx(2 / 1001)
    assert difference(better, first).value == -difference(first, better).value


def test_p_value_agrees_with_the_interval():
    """The interval at the level of the p value just reaches 0."""
    first, second = answers(8), answers(9, right=0.76)
    found = difference(first, second)
    assert 0.01 < found.p_value < 0.6
    for confidence, reaches in ((1 - 0.8 * found.p_value, True), (1 - 1.2 * found.p_value, False)):
        at = Bootstrap(num_resamples=1000, confidence=confidence)
        [again] = compare_answers(first, second, bootstrap=at)
        item = again.differences["accuracy"]
        assert (item.low <= 0 <= item.high) is reaches


@pytest.mark.slow
def test_p_values_of_equally_good_models_are_as_rare_as_they_say():
    rare = 0
    for seed in range(200):
        item = difference(answers(1000 + seed), answers(5000 + seed))
        rare += item.p_value <= 0.05
    assert binom.ppf(0.001, 200, 0.05) <= rare <= binom.ppf(0.999, 200, 0.08)


def test_one_patient_has_a_difference_and_no_interval():
    first, second = (answers(seed, num_patients=1) for seed in (1, 2))
    item = difference(first, second)
    assert (item.low, item.high, item.p_value) == (None, None, None)


def test_mcnemar_is_the_exact_binomial_test():
    first = [True] * 9 + [False] * 2 + [True] * 5 + [False] * 3
    second = [False] * 9 + [True] * 2 + [True] * 5 + [False] * 3
    found = mcnemar(first, second)
    assert (found.only_first, found.only_second) == (9, 2)
    assert found.p_value == pytest.approx(2 * binom.cdf(2, 11, 0.5), abs=1e-12)
    assert mcnemar(first, first).p_value == 1


def test_who_is_right_where_is_counted():
    first, second = answers(10), answers(11)
    [found] = compare_answers(first, second, bootstrap=QUICK)
    right = [[record.answer == record.truth for record in side] for side in (first, second)]
    pairs = list(zip(*right, strict=True))
    assert found.both_right == pairs.count((True, True))
    assert found.both_wrong == pairs.count((False, False))
    assert found.mcnemar.only_second == pairs.count((False, True))
    assert found.num_different == pairs.count((False, True)) + pairs.count((True, False))
    assert json.loads(json.dumps(found.to_json()))["both_wrong"] == found.both_wrong


def test_free_texts_are_compared_by_every_text_metric():
    truths = ["左叶见低回声结节。", "未见异常。", "右叶见高回声结节。"]
    records = [
        AnswerRecord(study_id=str(i), patient_key=str(i), topic="report", truth=t, answer=t)
        for i, t in enumerate(truths)
    ]
    other = [replace(records[0], answer="左 叶见低回声结节。"), *records[1:]]
    other[2] = replace(other[2], answer="右叶见低回声结节。")
    [found] = compare_answers(records, other, bootstrap=QUICK)
    assert not found.closed
    # the blank is no difference, the other sign is
    assert (found.num_different, found.both_right, found.mcnemar.only_first) == (1, 2, 1)
    [own] = text_metrics(other, training_answers={}, bootstrap=QUICK)
    assert found.differences["char_f1"].second == own.char_f1.value
    assert found.differences["word_rouge_l"].second == own.overlap["word_rouge_l"].value
    assert found.differences["exact_match"].value == pytest.approx(-1 / 3)


def test_topics_stay_apart_and_in_order():
    first = answers(12)
    side = [replace(record, topic="side") for record in first]
    found = compare_answers([*side, *first], [*side, *first], bootstrap=QUICK)
    assert [(item.topic, item.num_questions) for item in found] == [
        ("side", 120),
        ("pathology", 120),
    ]


def test_answers_to_other_questions_are_refused():
    first = answers(13)
    with pytest.raises(DataError, match="120 answers cannot be paired with 119"):
        compare_answers(first, first[1:], bootstrap=QUICK)
    with pytest.raises(DataError, match="study 's0', topic 'pathology' stands beside study 's1'"):
        compare_answers(first, [*first[1:], first[0]], bootstrap=QUICK)
    with pytest.raises(DataError, match="none of the options"):
        compare_answers([replace(first[0], truth="x")], [replace(first[0], truth="x")])


def test_all_closed_questions_are_compared_over_topics():
    sides = []
    for seed, right in ((1, 0.6), (2, 0.8)):
        organ = [replace(record, topic="organ") for record in answers(seed + 2, right=right)]
        sides.append([*answers(seed, right=right), *organ])
    found = compare_all_closed(*sides, bootstrap=QUICK)
    accuracy = found.differences["accuracy"]
    hits = [[record.answer == record.truth for record in side] for side in sides]
    assert (accuracy.first, accuracy.second) == pytest.approx((np.mean(hits[0]), np.mean(hits[1])))
    assert accuracy.low < accuracy.value < accuracy.high
    assert (found.num_questions, found.num_patients, found.closed) == (240, 60, True)
    assert found.mcnemar == mcnemar(*hits)
    assert list(found.differences) == ["accuracy"]
    [alone] = compare_answers(answers(1), answers(2), bootstrap=QUICK)
    overall = compare_all_closed(answers(1), answers(2), bootstrap=QUICK)
    assert overall.differences["accuracy"] == alone.differences["accuracy"]
    texts = [replace(record, options=(), option_scores={}) for record in sides[0]]
    assert compare_all_closed(texts, texts) is None
