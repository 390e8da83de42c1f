import pytest

from sonoray.errors import DataError
from sonoray.metrics import Bootstrap
from sonoray.metrics.picks import hit_rate
from sonoray_jobs.evaluation.ablation.scores import (
    check_same_questions,
    make_groups,
    score_variants,
)
from sonoray_jobs.evaluation.predictions import to_pick

BOOTSTRAP = Bootstrap(num_resamples=4000, seed=3)


def row(
    study: str, topic: str, answer: str, truth: str = "是", *, task="closed", shows=-1, seen=(0,)
):
    return {
        "study_id": study,
        "patient_key": study[0],  # a1 and a2 are of one patient
        "topic": topic,
        "task": task,
        "truth": truth,
        "answer": answer,
        "showing": [-1, -1] if shows < 0 else [shows, 1 - shows],
        "selected": list(seen),
    }


def test_questions_are_grouped_by_topic_kind_and_known_truth():
    rows = [
        row("a1", "margin", "是", shows=1),
        row("a1", "report", "左侧结节", "左侧囊肿", task="report", shows=1),
        row("b1", "side", "否"),
        row("b1", "margin", "否"),
    ]
    found = [(group.name, group.score, group.rows) for group in make_groups({"x": {0: rows}})]
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
    group = make_groups(tables)[1]
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
    tables = {"one": {0: rows}}
    report, hits = make_groups(tables)
    text = score_variants(tables, report, reference="one", bootstrap=BOOTSTRAP)["one"]
    assert text.mean.value == pytest.approx(0.75)  # two of four characters, and all of four
    picks = score_variants(tables, hits, reference="one", bootstrap=BOOTSTRAP)["one"]
    assert picks.mean.value == 0.5


def test_other_questions_are_not_compared():
    one, two = [row("a1", "margin", "是")], [row("a1", "side", "是")]
    check_same_questions({"x": one, "y": [row("a1", "margin", "否")]})
    with pytest.raises(DataError, match="'y' and 'x' answered other questions"):
        check_same_questions({"x": one, "y": two})


def test_an_ablation_counts_picks_as_an_evaluation_does():
    """One that keeps both images of some study, one that keeps all, one that keeps one of two."""
    rows = [
        row("a1", "margin", "是", shows=1),
        row("b1", "margin", "是", shows=0),
        row("c1", "margin", "是", shows=0, seen=(0, 1)),
        row("d1", "margin", "是"),
    ]
    tables = {
        "picks": {0: rows},
        "keeps": {0: [each | {"selected": [0, 1]} for each in rows]},
        "alone": {0: [each | {"selected": [1]} for each in rows]},
    }
    *_, hits = make_groups(tables)
    assert (hits.rows, hits.variants) == ((0, 1), ("picks", "alone"))
    scores = score_variants(tables, hits, reference="picks", bootstrap=BOOTSTRAP)
    wanted = hit_rate([to_pick(each) for each in rows], BOOTSTRAP)
    assert scores["picks"].mean.value == wanted.value == 0.5
    assert scores["alone"].mean.value == 0.5
    assert set(scores) == {"picks", "alone"}
    assert {group.name for group in make_groups({"keeps": tables["keeps"]})} == {
        "all closed questions",
        "margin",
    }
