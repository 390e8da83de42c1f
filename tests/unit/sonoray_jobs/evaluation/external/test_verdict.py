"""One topic judged: the figures are those of the metrics, here and in the internal test."""

import dataclasses
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, brier_score_loss, roc_auc_score

from sonoray.metrics import AnswerRecord, Bootstrap
from sonoray_jobs.evaluation.external.mapping import TopicAccount
from sonoray_jobs.evaluation.external.remarks import make_remarks
from sonoray_jobs.evaluation.external.seen_images import Seen
from sonoray_jobs.evaluation.external.summary_tables import overview_table
from sonoray_jobs.evaluation.external.validation_page import render_page
from sonoray_jobs.evaluation.external.verdict import judge_topic
from sonoray_jobs.outputs.model_record import ModelFacts, ModelRecord, TopicRecord

OPTIONS = ("良性", "恶性")
QUICK = Bootstrap(num_resamples=1000)


def answers(seed, size, signal, options=OPTIONS):
    """Questions whose probability is that of a logistic model, off by `signal`."""
    generator = np.random.default_rng(seed)
    found = []
    for number in range(size):
        truth = int(generator.integers(len(options)))
        logits = generator.normal(size=len(options))
        logits[truth] += signal
        scores = dict(zip(options, (logits - 3).tolist(), strict=True))
        found.append(
            AnswerRecord(
                study_id=f"s{number}", patient_key=f"p{number // 2}", topic="pathology",
                truth=options[truth], answer=max(scores, key=scores.get), options=options,
                option_scores=scores,
            )
        )  # fmt: skip
    return found


@pytest.fixture(scope="module")
def verdict():
    records = answers(0, 120, 0.5)
    devices = {record.study_id: ("old", "new")[n % 2] for n, record in enumerate(records)}
    return judge_topic(
        "pathology", records, answers(1, 100, 2.5), {"device": devices},
        training_answers={"良性": 7, "恶性": 3}, positive=None, bootstrap=QUICK, least_patients=10,
    )  # fmt: skip


def test_the_figures_equal_scikit_learn_on_both_sides(verdict):
    for found, records in (
        (verdict.external, answers(0, 120, 0.5)),
        (verdict.internal, answers(1, 100, 2.5)),
    ):
        truth = [record.truth == "恶性" for record in records]
        chance = [
            1 / (1 + math.exp(record.option_scores["良性"] - record.option_scores["恶性"]))
            for record in records
        ]
        said = [record.answer == "恶性" for record in records]
        assert found["auc"].value == pytest.approx(roc_auc_score(truth, chance))
        assert found["accuracy"].value == pytest.approx(accuracy_score(truth, said))
        assert found["brier"].value == pytest.approx(brier_score_loss(truth, chance))
        assert found["ece"].low < found["ece"].high
    assert verdict.calibration.brier == verdict.external["brier"]
    assert (verdict.positive, verdict.constant_answer) == ("恶性", "良性")
    assert (verdict.num_patients, verdict.internal_patients) == (60, 50)


def test_the_fall_shows_in_the_difference_and_its_interval(verdict):
    fall = verdict.differences["auc"]
    assert fall.value == pytest.approx(
        verdict.external["auc"].value - verdict.internal["auc"].value
    )
    assert fall.low < fall.value < fall.high < 0


def test_groups_share_the_answers_out(verdict):
    groups = verdict.groups["device"]
    assert sorted((group.value, group.num_questions) for group in groups) == [
        ("new", 60),
        ("old", 60),
    ]
    mean = np.mean([group.estimates["accuracy"].value for group in groups])
    assert mean == pytest.approx(verdict.external["accuracy"].value)
    assert {"positive", "accuracy", "auc", "brier"} == set(groups[0].estimates)


def test_the_positive_option_is_whichever_is_said():
    records = answers(3, 60, 1.0)
    settings = {
        "training_answers": {}, "bootstrap": QUICK, "least_patients": 5,
    }  # fmt: skip
    malignant = judge_topic("pathology", records, records, {}, positive="恶性", **settings)
    benign = judge_topic("pathology", records, records, {}, positive="良性", **settings)
    assert benign.positive == "良性"
    shares = [each.calibration.observed_share.value for each in (malignant, benign)]
    assert sum(shares) == pytest.approx(1)
    assert benign.external["auc"].value == pytest.approx(malignant.external["auc"].value)
    assert benign.internal["auc"].value == pytest.approx(malignant.internal["auc"].value)


def test_more_options_have_no_decision_curve_and_no_internal_test_no_difference():
    records = answers(2, 60, 1.0, options=("低回声", "等回声", "高回声"))
    found = judge_topic(
        "echogenicity", records, (), {}, training_answers={}, positive=None, bootstrap=QUICK,
        least_patients=5,
    )  # fmt: skip
    assert (found.positive, found.decisions, found.internal, found.differences) == (
        None,
        (),
        {},
        {},
    )
    assert found.external["auc"].value > 0.6


def model(**changes):
    facts = ModelFacts(
        dtype="float16", near_duplicate_distance=24, near_duplicate_correlation=0.9,
        num_training_patients=9,
        topics={"pathology": TopicRecord(question="?", options=OPTIONS, answers={})},
    )  # fmt: skip
    record = ModelRecord(facts=facts, training_images={}, internal_test=answers(0, 2, 1))
    return SimpleNamespace(**{"name": "m", "adopted": [], "record": record} | changes)


def remarks(verdict, *, seen=0, account=None, same=False, **changes):
    found = make_remarks(
        model(**changes),
        dataset="other",
        same_dataset=same,
        seen=Seen(
            exact_images=seen, near_images=1 if seen else 0, studies=seen, patients=seen,
            training_images=1234, distance=24, correlation=0.9,
        ),
        accounts={"pathology": account or TopicAccount(name="pathology", asked=120)},
        verdicts=[verdict],
    )  # fmt: skip
    return {each.message: each.kind for each in found}


def test_what_limits_the_figures_comes_first(verdict):
    account = TopicAccount(name="diagnosis", asked=100, lacking=3, contradictory=2)
    account.unmapped.update({"正常": 13, "case 7: see letter": 1})
    found = remarks(verdict, seen=3, account=account, same=True, adopted=["clip"])
    kinds = list(found.values())
    assert kinds[:2] == ["serious", "serious"]
    told = "\n".join(found)
    assert (
        "3 studies of 3 patients were set aside: the model learned from 3 of their images" in told
    )
    assert "clip came from published weights" in told
    assert (
        "14 studies were not asked, their truth is none of 良性, 恶性: 正常 (13), others (1)"
        in told
    )
    assert "see letter" not in told
    assert "2 studies have two truths" in told
    assert "3 studies have no truth" in told
    assert [kind for text, kind in found.items() if text.startswith("pathology: AUC")] == [
        "warning"
    ]


def test_a_clean_set_says_what_was_compared(verdict):
    found = remarks(verdict)
    (told,) = [text for text, kind in found.items() if kind == "clear" and "1,234" in text]
    assert "at most 24 of 256 bits" in told


@pytest.mark.parametrize(
    ("value", "low", "high", "kind", "told"),
    [
        (-0.2, -0.3, -0.1, "warning", "[-0.300, -0.100]"),
        (-0.1, -0.3, 0.1, "warning", "[-0.300, +0.100], which includes none: more patients would"),
        (0.1, -0.1, 0.3, "clear", "[-0.100, +0.300]"),
    ],
)
def test_a_drop_that_few_patients_cannot_show_is_no_good_news(
    verdict, value, low, high, kind, told
):
    change = dataclasses.replace(verdict.differences["auc"], value=value, low=low, high=high)
    found = remarks(dataclasses.replace(verdict, differences={"auc": change}))
    ((text, shown),) = [each for each in found.items() if each[0].startswith("pathology: AUC")]
    assert shown == kind
    assert told in text


def test_the_page_and_the_table_escape_and_show_what_was_found(verdict, tmp_path):
    from sonoray.metrics.external.curve_plots import plot_curves

    picture = tmp_path / "curves.png"
    plot_curves(verdict.calibration, verdict.risks, verdict.decisions, picture)
    values = {
        "model": {"name": "m <b>", "training": "t-1", "digest": "d" * 64},
        "dataset": {"name": "other", "split": "all"},
        "studies": {"judged": 120, "patients": 60, "total": 130},
        "seen": {"studies": 10},
        "accounts": {"pathology": TopicAccount(name="diagnosis", asked=120).to_json()},
        "remarks": [{"kind": "warning", "message": "<script>alert(1)</script>"}],
        "topics": {"pathology": json.loads(json.dumps(verdict.to_json()))},
        "labels_left_out": {"size_mm": "91 values"},
        "least_patients": 10,
    }
    page = render_page(values, {"pathology": picture}, "for research")
    assert "<script" not in page
    assert "m &lt;b&gt; on other" in page
    auc = verdict.external["auc"]
    for text in (f"<td>{auc}</td>", "<h3>By device</h3>", "size_mm", "91 values", "for research"):
        assert text in page
    rows = {row[2]: row for row in overview_table(values).rows}
    assert rows["AUC"][3] == str(auc)
    difference = verdict.differences["auc"]
    assert rows["AUC"][5] == (
        f"{difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
    )
