import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from llava_ultra.recognition.bank import BankClass, ClassBank
from sonoray.errors import DataError
from sonoray.metrics import Bootstrap
from sonoray.study.contract import Study, StudyImage
from sonoray_jobs.evaluation.recognition.recognition_report import (
    CALIBRATION,
    SCORES,
    Split,
    figures_table,
    headlines,
    judge,
    plot_figures,
    truth_of,
    write_calibration,
    write_scores,
)

BANK = ClassBank(
    name="mine",
    label="kind",
    classes=(BankClass(name="囊肿"), BankClass(name="结节"), BankClass(name="钙化")),
)
BOOTSTRAP = Bootstrap(num_resamples=1000)


def split(kinds, seed=0):
    """Studies whose scores are a little right."""
    image = StudyImage(image_id="i", uri="u", width=1, height=1)
    studies = [
        Study(
            study_id=f"s{number}",
            patient_key=f"p{number // 2}",
            split="test",
            dataset="d",
            images=(image,),
            turns=(),
            labels={"kind": kind} if kind else {},
        )
        for number, kind in enumerate(kinds)
    ]
    scores = np.random.default_rng(seed).normal(size=(len(kinds), 3))
    for row, kind in enumerate(kinds):
        if kind:
            scores[row, BANK.names.index(kind)] += 1.5
    return Split(studies=studies, scores=scores)


KINDS = ["囊肿", "结节"] * 20


def test_shares_are_a_softmax_and_log_odds_rank_them_alike():
    found = split(KINDS)
    powers = np.exp(found.scores)
    np.testing.assert_allclose(found.shares, powers / powers.sum(axis=1, keepdims=True))
    assert (np.argsort(found.log_odds[:, 0]) == np.argsort(found.shares[:, 0])).all()


def test_studies_without_a_class_are_scored_and_not_judged(tmp_path):
    figures, curves = judge(split([*KINDS, None, None]), split(KINDS, 1), BANK, BOOTSTRAP)
    assert figures.num_studies == len(KINDS)
    assert figures.classes[0].auc.value > 0.6
    assert figures.classes[2].auc is None  # no study of it
    assert [curve is None for curve in curves] == [False, False, True]
    table = figures_table(figures).text()
    assert table[3].split()[2:4] == ["0", "(0.000)"] or "-" in table[3]
    assert table[-1].startswith("mean over classes")
    assert plot_figures(figures, tmp_path / "x.png")
    assert set(headlines(figures, "r")) == {
        *(f"r/{name}" for name in ("auc", "auprc", "f1", "accuracy")),
        "r/class_1/auc",
        "r/class_2/auc",
    }


def test_without_labels_there_are_scores_alone():
    figures, curves = judge(split([None] * 4), None, BANK, BOOTSTRAP)
    assert figures is None
    assert curves == [None] * 3


def test_a_label_of_no_class_names_the_study():
    other = split(KINDS)
    study = Study(
        study_id="odd",
        patient_key="p",
        split="test",
        dataset="d",
        images=other.studies[0].images,
        turns=(),
        labels={"kind": "脓肿"},
    )
    with pytest.raises(DataError, match="study 'odd': label kind = '脓肿' is of no class"):
        truth_of([study], BANK)


def test_what_is_written_holds_shares_probabilities_and_curves(tmp_path):
    tested = split(KINDS)
    _, curves = judge(tested, split(KINDS, 1), BANK, BOOTSTRAP)
    write_scores(tmp_path, tested, BANK, curves)
    write_calibration(tmp_path, BANK, curves, "phantom-1", {"against": "prompts"})
    row = pq.read_table(tmp_path / SCORES).to_pylist()[0]
    first, _, last = json.loads(row["scores"])
    assert row["classes"] == ["囊肿"]
    assert first["share"] == pytest.approx(tested.shares[0, 0])
    assert first["low"] <= first["probability"] <= first["high"]
    assert set(last) == {"class", "share"}
    kept = json.loads((tmp_path / CALIBRATION).read_text(encoding="utf-8"))
    assert kept["training"] == "phantom-1"
    assert kept["reading"] == {"against": "prompts"}
    assert kept["curves"]["钙化"] is None
    assert ClassBank.model_validate(kept["bank"]) == BANK
