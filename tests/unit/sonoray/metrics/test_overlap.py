"""The measures of overlap against published values, NLTK and their formulas."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate.bleu_score import corpus_bleu

from sonoray.metrics.overlap import (
    OVERLAP_METRICS,
    bleu_metrics,
    cider,
    lcs_length,
    meteor,
    overlap_metrics,
    rouge_l,
    rouge_n,
)

REFERENCES = [
    [["the", "cat", "sat", "on", "the", "mat"], ["a", "cat", "was", "sitting", "on", "the", "mat"]],
    [["there", "is", "a", "dog", "in", "the", "house"]],
    [["no", "lesion", "was", "seen", "in", "the", "liver"], ["liver", "without", "lesion"]],
]
ANSWERS = [
    ["the", "cat", "is", "on", "the", "mat"],
    ["there", "is", "a", "dog", "in", "the", "big", "house"],
    ["no", "lesion", "in", "the", "liver"],
]


def values(references, answers):
    ones = np.ones((1, len(answers)))
    return {
        name: float(metric(ones)[0])
        for name, metric in overlap_metrics(references, answers).items()
    }


def test_published_values_of_nlg_eval_to_six_digits(shared_data):
    folder = shared_data("metrics")

    def lines(name):
        text = (folder / "nlg-eval" / "examples" / name).read_text(encoding="utf-8")
        return [line.split() for line in text.splitlines()]

    references = [list(pair) for pair in zip(lines("ref1.txt"), lines("ref2.txt"), strict=True)]
    found = values(references, lines("hyp.txt"))
    expected = json.loads((folder / "expected_nlg_eval.json").read_text(encoding="utf-8"))
    for order in range(1, 5):
        assert found[f"bleu_{order}"] == pytest.approx(expected[f"Bleu_{order}"], abs=5e-7)
    assert found["rouge_l"] == pytest.approx(expected["ROUGE_L"], abs=5e-7)
    assert found["cider"] == pytest.approx(expected["CIDEr"], abs=5e-7)


def test_all_measures_are_there_and_a_perfect_answer_has_the_best_of_each():
    found = values(REFERENCES, [refs[0] for refs in REFERENCES])
    assert tuple(found) == OVERLAP_METRICS
    for name in OVERLAP_METRICS[:7]:
        assert found[name] == pytest.approx(1)
    assert found["meteor"] == pytest.approx(np.mean([1 - 0.5 / n**3 for n in (6, 7, 7)]))


@pytest.mark.filterwarnings("ignore:(?s).*0 counts of 4-gram")
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_bleu_equals_nltk_on_the_corpus_and_on_every_draw(order):
    metric = bleu_metrics(REFERENCES, ANSWERS)[order - 1]
    draws = np.array([[1, 1, 1], [3, 0, 1], [0, 2, 1]])
    expected = []
    for draw in draws:
        index = np.repeat(np.arange(3), draw)
        expected.append(
            corpus_bleu(
                [REFERENCES[i] for i in index],
                [ANSWERS[i] for i in index],
                weights=[1 / order] * order,
            )
        )
    np.testing.assert_allclose(metric(draws.astype(float)), expected, rtol=0, atol=1e-12)


def test_bleu_of_answers_without_a_shared_n_gram_or_any_word_is_zero():
    refs = [[["a", "b"]], [["c"]]]
    for answers in ([["x"], ["y"]], [[], []], [["a"], ["c"]]):
        bleu = [float(metric(np.ones((1, 2)))[0]) for metric in bleu_metrics(refs, answers)]
        assert bleu[1:] == [0, 0, 0]
    # two of two words are right; the brevity penalty for two words where three are wanted
    assert bleu[0] == pytest.approx(math.exp(1 - 3 / 2))


def test_bleu_of_no_answer_is_undefined():
    assert np.isnan(bleu_metrics(REFERENCES, ANSWERS)[0](np.zeros((1, 3)))).all()


def test_rouge_by_hand():
    reference, answer = ["a", "b", "c", "d"], ["a", "c", "b", "d", "e"]
    assert rouge_n([reference], answer, 1) == pytest.approx(8 / 9)
    assert rouge_n([reference], answer, 2) == 0
    assert rouge_n([reference, ["c", "b", "d"]], answer, 2) == pytest.approx(4 / 6)
    precision, recall, square = 3 / 5, 3 / 4, 1.2**2
    expected = (1 + square) * precision * recall / (recall + square * precision)
    assert rouge_l([reference], answer) == pytest.approx(expected)
    # precision and recall may come from different references
    both = rouge_l([["a", "c", "b", "d", "x", "y", "z"], ["e"]], answer)
    precision, recall = 4 / 5, 1
    assert both == pytest.approx((1 + square) * precision * recall / (recall + square * precision))
    assert rouge_l([reference], []) == 0
    assert rouge_n([[]], answer, 1) == 0


@settings(deadline=None)
@given(st.text("abc", max_size=70), st.text("abc", max_size=70))
def test_longest_common_subsequence_equals_the_table(first, second):
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, one in enumerate(first):
        for j, other in enumerate(second):
            table[i + 1][j + 1] = (
                table[i][j] + 1 if one == other else max(table[i][j + 1], table[i + 1][j])
            )
    assert lcs_length(list(first), list(second)) == table[-1][-1]


def test_meteor_by_hand():
    """Four of five words match in two chunks; stems match, synonyms do not."""
    reference, answer = ["低", "回声", "结节", "边界", "清"], ["结节", "边界", "低", "回声"]
    precision, recall = 1, 4 / 5
    mean = precision * recall / (0.9 * precision + 0.1 * recall)
    assert meteor([reference], answer) == pytest.approx((1 - 0.5 * (2 / 4) ** 3) * mean)
    assert meteor([["nodule"]], ["nodules"]) == meteor([["nodule"]], ["nodule"]) == 0.5
    assert meteor([["nodule"]], ["lump"]) == meteor([["nodule"]], []) == 0


def test_cider_by_hand():
    """Two answers, one reference each; `a` is in both references and weighs nothing."""
    references = [[["a", "b"]], [["a", "c", "c"]]]
    first, second = cider(references, [["a", "b"], ["b", "c"]])
    # n = 1: only `b`; n = 2: only `a b`; n = 3 and 4: none. No gap in length.
    assert first == pytest.approx(10 * (1 + 1 + 0 + 0) / 4)
    # n = 1: `c` once where the truth has it twice; the answer also holds `b`, which is as rare
    cosine = (1 * 2) / (math.sqrt(2) * 2)
    gap = 1 - 2  # bigrams
    assert second == pytest.approx(10 * math.exp(-(gap**2) / 72) * cosine / 4)
    # what an answer repeats counts no more often than the truth has it
    _, third = cider(references, [["a", "b"], ["c", "c", "c"]])
    assert third == pytest.approx(10 * (4 / 6 + 1 / (2 * math.sqrt(2))) / 4)


@pytest.mark.parametrize("number", [1, 3])
def test_cider_is_undefined_where_no_word_tells_one_truth_from_another(number):
    text = ["a", "b"]
    assert np.isnan(cider([[text]] * number, [text] * number)).all()
    assert cider([[text], [["c"]]], [text, ["c"]]) == pytest.approx([5, 2.5])
