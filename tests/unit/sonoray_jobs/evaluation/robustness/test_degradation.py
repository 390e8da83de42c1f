"""Planted answers: what each condition costs, what calibrating gives back, what is recognised."""

import json
import random

import pytest

from sonoray.metrics import Bootstrap
from sonoray_jobs.evaluation.robustness import curves
from sonoray_jobs.evaluation.robustness.conditions import make_conditions
from sonoray_jobs.evaluation.robustness.degradation import (
    headlines,
    judge,
    kinds_table,
    strengths_table,
)

CONDITIONS = make_conditions(["gain", "typos"], [0.5, 1.0])
WRONG = {"gain 0.5": 10, "gain 1": 20, "typos 0.5": 0, "typos 1": 5, "clean": 0}
NUM_STUDIES = 40


def row(study, number, *, is_calibrated=False):
    condition = CONDITIONS.conditions[number]
    truth = "yes" if study % 2 else "no"
    wrong = WRONG[condition.name] // (2 if is_calibrated else 1)
    answer = truth if study >= wrong else {"yes": "no", "no": "yes"}[truth]
    return {
        "study_id": f"{study:03}",
        "patient_key": f"p{study}",
        "question_number": 0,
        "topic": "pathology",
        "truth": truth,
        "answer": answer,
        "option_scores": json.dumps(
            {option: 0.0 if option == answer else -2.0 for option in ("no", "yes")}
        ),
        "image_ids": ["a", "b"],
        "selected": [int(study < wrong)],
        "condition": number,
        "is_calibrated": is_calibrated,
        "recognised": [number if study % 4 else 0] * 2 if is_calibrated else [],
    }


@pytest.fixture(scope="module")
def judged():
    rows = [
        row(study, number, is_calibrated=is_calibrated)
        for study in range(NUM_STUDIES)
        for number in range(len(CONDITIONS))
        for is_calibrated in (False, True)
    ]
    random.Random(0).shuffle(rows)
    return judge(rows, CONDITIONS, {"pathology": "yes"}, Bootstrap(num_resamples=1000))


def test_each_condition_is_compared_with_the_clean_one(judged):
    assert judged["clean"]["accuracy"]["value"] == 1
    assert judged["clean"]["auc"]["value"] == 1
    by_name = {f"{each['kind']} {each['strength']:g}": each for each in judged["conditions"]}
    for name, each in by_name.items():
        share = WRONG[name] / NUM_STUDIES
        assert each["accuracy"]["value"] == pytest.approx(1 - share)
        assert each["difference"]["value"] == pytest.approx(-share)
        assert each["same_pick"]["value"] == pytest.approx(1 - share)
    assert by_name["gain 1"]["difference"]["high"] < 0
    assert "calibrated" not in by_name["typos 1"]
    calibrated = by_name["gain 1"]["calibrated"]
    assert calibrated["gain"]["value"] == pytest.approx(10 / NUM_STUDIES)
    assert calibrated["recognised"] == pytest.approx(0.75)


def test_a_kind_is_the_mean_over_its_strengths_and_the_worst_comes_first(judged):
    gain, typos = judged["kinds"]
    assert gain["difference"]["value"] == pytest.approx(-15 / NUM_STUDIES)
    assert gain["gain"]["value"] == pytest.approx(7.5 / NUM_STUDIES)
    assert typos["difference"]["value"] == pytest.approx(-2.5 / NUM_STUDIES)
    assert [line[0] for line in kinds_table(judged).rows] == ["gain", "typos"]
    assert kinds_table(judged).rows[1][4:] == ("-", "-")
    assert strengths_table(judged).rows[0] == ("gain", "0.750 / 0.875", "0.500 / 0.750")


def test_mlflow_gets_a_number_for_each_kind(judged):
    told = headlines(judged, "robustness-test")
    assert told["robustness-test/gain/accuracy"] == pytest.approx(1 - 15 / NUM_STUDIES)
    assert told["robustness-test/mean_accuracy"] == pytest.approx(1 - 17.5 / 2 / NUM_STUDIES)
    assert "robustness-test/typos/calibrated_gain" not in told


def test_the_picture_has_a_panel_for_each_kind(judged, tmp_path):
    figure = curves.make_figure(judged)
    shown = [axes.get_title() for axes in figure.axes if axes.get_visible()]
    assert shown == ["gain", "typos"]
    gain = figure.axes[0].lines[0]
    assert gain.get_ydata().tolist() == [1.0, 0.75, 0.5]
    curves.draw(judged, tmp_path / "robustness.png")
    assert (tmp_path / "robustness.png").read_bytes().startswith(b"\x89PNG")
