import numpy as np
import pytest

from sonoray.errors import DataError
from sonoray.metrics import Bootstrap
from sonoray.metrics.resampling import estimate, mean_metric
from sonoray_jobs.evaluation.ablation.scores import (
    check_same_questions,
    estimate_mean,
    make_groups,
    score_variants,
)

BOOTSTRAP = Bootstrap(num_resamples=4000, seed=3)


def row(study: str, topic: str, answer: str, truth: str = "是", *, task="closed", shows=-1):
    return {
        "study_id": study,
        "patient_key": study[0],  # a1 and a2 are of one patient
        "topic": topic,
        "task": task,
        "truth": truth,
        "answer": answer,
        "showing": [shows, 0],
        "shows_finding": shows,
    }


def test_questions_are_grouped_by_topic_kind_and_known_truth():
    rows = [
        row("a1", "margin", "是", shows=1),
        row("a1", "report", "左侧结节", "左侧囊肿", task="report", shows=1),
        row("b1", "side", "否"),
        row("b1", "margin", "否"),
    ]
    found = [(group.name, group.score, group.rows) for group in make_groups(rows)]
    assert found == [
        ("all closed questions", "accuracy", (0, 2, 3)),
        ("margin", "accuracy", (0, 3)),
        ("side", "accuracy", (2,)),
        ("report", "character F1", (1,)),
        ("picked image shows the finding", "hit@1", (0, 1)),
    ]


def test_means_and_differences_of_known_answers():
    """Of four questions, the reference has 2 and 3 right with its seeds, the other one 4 and 3."""
    right = {"old": {0: "是是否否", 1: "是是是否"}, "new": {0: "是是是是", 2: "是是否是"}}
    studies = ["a1", "a2", "b1", "c1"]
    tables = {
        variant: {
            seed: [
                row(study, "margin", answer) for study, answer in zip(studies, answers, strict=True)
            ]
            for seed, answers in by_seed.items()
        }
        for variant, by_seed in right.items()
    }
    group = make_groups(tables["old"][0])[1]
    found = score_variants(tables, group, reference="old", bootstrap=BOOTSTRAP)
    assert found["old"].mean.value == pytest.approx(5 / 8)
    assert found["old"].by_seed == {0: 0.5, 1: 0.75}
    assert found["old"].difference is None
    assert found["new"].mean.value == pytest.approx(7 / 8)
    assert found["new"].difference.value == pytest.approx(0.5)  # of seed 0, which both have
    assert found["new"].difference.low == 0.0  # a draw of patient a alone
    assert found["new"].difference.high == 1.0


def test_a_free_text_and_a_pick_are_scored_as_such():
    rows = [row("a1", "report", "左侧结节", "左侧囊肿", task="report", shows=1)]
    rows += [row("b1", "report", "左侧囊肿", "左侧囊肿", task="report", shows=0)]
    report, hits = make_groups(rows)
    tables = {"one": {0: rows}}
    text = score_variants(tables, report, reference="one", bootstrap=BOOTSTRAP)["one"]
    assert text.mean.value == pytest.approx(0.75)  # two of four characters, and all of four
    picks = score_variants(tables, hits, reference="one", bootstrap=BOOTSTRAP)["one"]
    assert picks.mean.value == 0.5


def test_one_seed_has_the_interval_of_an_evaluation():
    generator = np.random.default_rng(0)
    hits = (generator.random(300) < 0.7).astype(float)
    patients = [f"p{number}" for number in generator.integers(0, 60, 300)]
    ours = estimate_mean(hits[:, None], patients, BOOTSTRAP)
    theirs = estimate(mean_metric(hits), patients, BOOTSTRAP)
    assert ours.value == pytest.approx(theirs.value)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.004)


def test_seeds_that_disagree_widen_the_interval_and_seeds_that_agree_do_not():
    generator = np.random.default_rng(1)
    hits = (generator.random((400, 1)) < 0.5).astype(float)
    patients = [f"p{number}" for number in range(400)]
    agreeing = estimate_mean(np.repeat(hits, 3, axis=1), patients, BOOTSTRAP)
    alone = estimate_mean(hits, patients, BOOTSTRAP)
    assert agreeing.high - agreeing.low == pytest.approx(alone.high - alone.low, rel=0.05)
    apart = np.concatenate([hits, np.ones_like(hits), np.zeros_like(hits)], axis=1)
    assert estimate_mean(apart, patients, BOOTSTRAP).high > alone.high + 0.2


def test_one_patient_gives_no_interval():
    found = estimate_mean(np.array([[1.0], [0.0]]), ["p", "p"], BOOTSTRAP)
    assert (found.value, found.low, found.high) == (0.5, None, None)


def test_scores_that_are_all_alike_have_an_exact_interval():
    patients = [f"p{number}" for number in range(30)]
    right = estimate_mean(np.ones((30, 3)), patients, BOOTSTRAP)
    assert (right.value, right.high) == (1.0, 1.0)
    assert right.low == pytest.approx(0.025 ** (1 / 30))
    same = estimate_mean(np.zeros((30, 3)), patients, BOOTSTRAP, lowest=-1.0)
    assert (-same.low, same.high) == pytest.approx((1 - 0.025 ** (1 / 30),) * 2)


def test_other_questions_are_not_compared():
    one, two = [row("a1", "margin", "是")], [row("a1", "side", "是")]
    check_same_questions({"x": one, "y": [row("a1", "margin", "否")]})
    with pytest.raises(DataError, match="'y' and 'x' answered other questions"):
        check_same_questions({"x": one, "y": two})
