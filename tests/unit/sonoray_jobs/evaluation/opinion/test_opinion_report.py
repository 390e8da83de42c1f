"""Errors found and right answers broken, counted by hand; probes that learn from each set."""

import numpy as np
import pytest

from sonoray.metrics import Bootstrap
from sonoray.study.contract import Study, StudyImage, Task, Turn
from sonoray_jobs.evaluation.opinion.opinion_report import judge_answers, judge_probes
from sonoray_jobs.evaluation.opinion.opinion_tables import (
    answers_table,
    differences_table,
    ways_line,
)
from sonoray_jobs.evaluation.probing.linear import asked_of
from sonoray_jobs.evaluation.probing.pooling import PooledStudy

BOOTSTRAP = Bootstrap(num_resamples=1000)
OPTIONS = ("良性", "恶性")


def test_found_and_broken_are_shares_of_wrong_and_of_right_answers():
    truth = ["a"] * 6 + ["b"] * 4
    given = ["a"] * 4 + ["b"] * 2 + ["b"] * 4  # two wrong
    mended = ["b"] + ["a"] * 4 + ["b"] * 5  # one found, one broken
    suspected = ["a"] * 6 + ["b"] * 4  # both found
    values = judge_answers(
        {"given": given, "suspected": suspected, "mended": mended},
        truth,
        [f"p{number}" for number in range(10)],
        BOOTSTRAP,
    )
    assert values["num_wrong"] == 2
    own = values["sets"]["mended"]
    assert (own["num_changed"], own["num_found"], own["num_broken"]) == (2, 1, 1)
    assert own["found"]["value"] == pytest.approx(1 / 2)
    assert own["broken"]["value"] == pytest.approx(1 / 8)
    assert own["right"]["value"] == pytest.approx(0.8)
    assert values["sets"]["suspected"]["right"]["value"] == pytest.approx(1)
    assert values["mended_minus_given"]["value"] == pytest.approx(0)
    assert values["mended_minus_suspected"]["value"] == pytest.approx(-0.2)


def test_without_an_error_there_is_nothing_to_find():
    sets = {name: ["a", "b"] for name in ("given", "suspected", "mended")}
    values = judge_answers(sets, ["a", "b"], ["p", "q"], BOOTSTRAP)
    assert values["sets"]["mended"]["found"] is None
    rows = answers_table({"answers": values}).rows
    assert rows[2][3] == "0: -"


def test_a_probe_learns_more_from_true_answers_than_from_wrong_ones():
    rng = np.random.default_rng(0)
    truth, pooled = [], []
    for number in range(120):
        answer = OPTIONS[number % 2]
        turn = Turn(
            question="?", answer=answer, task=Task.CLOSED, options=OPTIONS, topic="pathology"
        )
        study = Study(
            study_id=f"s{number}", patient_key=f"p{number}", split="test", dataset="d",
            images=(StudyImage(image_id=f"i{number}", uri="", width=8, height=8),), turns=(turn,),
        )  # fmt: skip
        signal = np.zeros(12)
        signal[0] = 1.5 * (2 * (number % 2) - 1)
        features = (rng.standard_normal((1, 12)) + signal).astype(np.float32)
        pooled.append(PooledStudy(study=study, towers={"clip": features}))
        truth.append(answer)
    wrong = set(rng.permutation(120)[:48].tolist())
    given = [
        OPTIONS[1 - OPTIONS.index(answer)] if number in wrong else answer
        for number, answer in enumerate(truth)
    ]
    sets = {"given": given, "suspected": truth, "mended": truth}
    values = {
        "answers": judge_answers(sets, truth, [f"p{n}" for n in range(120)], BOOTSTRAP),
        "probes": judge_probes(
            asked_of(pooled, "pathology", ("clip",)), sets, truth, "恶性", BOOTSTRAP, 0
        ),
    }
    probes = values["probes"]
    assert probes["mended"] == probes["true"]
    assert probes["mended_minus_given"]["accuracy"]["low"] > 0
    assert probes["true_minus_given"] == probes["mended_minus_given"]
    assert probes["mended_minus_given"]["auc"]["value"] > 0
    assert [row[0] for row in answers_table(values).rows] == [
        "given", "suspected", "mended", "true",
    ]  # fmt: skip
    assert differences_table(values).rows[0][0] == "mended minus given"


def test_a_way_that_is_not_the_papers_is_never_taken_silently():
    auc = {"value": 0.8, "low": 0.7, "high": 0.9, "num_undefined": 0}
    ways = {
        "exemplars": {"auc": None, "means": {}},
        "options": {"auc": auc, "means": {"a": 0.1}},
    }
    told = ways_line({"ways": ways, "way": "options", "num_check": 48})
    assert told.startswith("asked by options, since exemplars tell less; ")
    assert "exemplars too long for the context, options 0.800 [0.700, 0.900]" in told
    told = ways_line({"ways": ways, "way": None, "num_check": 48})
    assert told.startswith("no way of asking tells right from wrong, so nothing is changed")
