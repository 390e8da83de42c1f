"""A risk model from columns: its explanation, its groups, what is kept of it."""

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from sonoray.errors import DataError
from sonoray.metrics import Bootstrap
from sonoray.study.contract import write_studies
from sonoray_jobs.evaluation.probing.answer_folds import answer_folds
from sonoray_jobs.evaluation.structured.leaks import without_leaks
from sonoray_jobs.evaluation.structured.outcomes import read_outcomes
from sonoray_jobs.evaluation.structured.patient_columns import Columns, read_columns
from sonoray_jobs.evaluation.structured.risk_bias import band
from sonoray_jobs.evaluation.structured.risk_fitting import fit_risk
from sonoray_jobs.evaluation.structured.risk_model import (
    logistic,
    read_risk,
    write_risk,
)
from sonoray_jobs.evaluation.structured.risk_report import (
    apply_risk,
    groups_table,
    judge_risk,
    rates_table,
    remarks,
    worth_table,
)
from sonoray_jobs.evaluation.structured.risk_stage import fit_on, gather
from sonoray_jobs.road.config import load_road
from sonoray_jobs.road.risk_config import RiskConfig


@pytest.fixture(scope="module")
def fitted(training, tested):
    """The settings, all columns, those that are learned from, outcomes and the model."""
    settings = RiskConfig()
    both = [*training, *tested]
    truth = read_outcomes(both, settings.outcome, settings.positive)
    everything = read_columns(both, None, settings, "d")
    told = {study: str(value) for study, value in truth.items()}
    columns = without_leaks(everything, told, settings, {each.study_id for each in training})
    patients = {study.study_id: study.patient_key for study in both}
    own = {study.study_id: truth[study.study_id] for study in training}
    model = fit_risk(columns, own, patients, settings)
    other = {study.study_id: truth[study.study_id] for study in tested}
    return settings, everything, columns, other, patients, model


@pytest.fixture(scope="module")
def judged(fitted):
    settings, everything, columns, truth, patients, model = fitted
    predictions = apply_risk(model, columns, truth, patients)
    bootstrap = Bootstrap(num_resamples=1000)
    return predictions, judge_risk(model, predictions, columns, everything, settings, bootstrap)


def test_what_decides_the_outcome_has_the_weight_and_the_sum_is_exact(fitted):
    *_, columns, _, _, model = fitted
    record = {"age": 80.0, "device": "B", "side": "left"}
    own = model.contributions(record)
    assert next(iter(own)) == "age"
    assert own["age"] > 1
    assert own["device"] > 0.5
    assert abs(own["side"]) < 0.3
    assert logistic(model.base + sum(own.values())) == pytest.approx(model.probability(record))
    usual = [model.contributions(columns.of_study[f"train-{number}"]) for number in range(400)]
    for name in own:  # over the training studies a column contributes nothing on average
        assert np.mean([each[name] for each in usual]) == pytest.approx(0, abs=1e-9)


def test_an_unknown_value_is_neither_refused_nor_a_reason(fitted):
    model = fitted[-1]
    assert 0 < model.probability({}) < 1
    assert model.contributions({"device": "C"})["device"] == pytest.approx(
        -model.terms["device"].usual
    )


def test_figures_are_those_of_scikit_learn_and_of_counting(judged):
    predictions, values = judged
    rates = values["rates"]
    assert rates["auc"]["value"] == pytest.approx(
        roc_auc_score(predictions.truth, predictions.chance)
    )
    assert rates["auc"]["low"] > 0.7
    missed = (predictions.truth & ~predictions.called).sum()
    assert values["num_missed"] == missed
    assert rates["false_negatives"]["value"] == pytest.approx(missed / predictions.truth.sum())
    assert rates["false_negatives"]["value"] < 0.25  # the threshold was set for 0.1
    assert rates["ece"]["value"] < 0.1
    assert next(iter(values["worth"])) == "age"


def test_groups_are_judged_with_intervals_and_few_positives_are_named(fitted, judged):
    settings, (_, values) = fitted[0], judged
    assert list(values["groups"]) == ["device", "side", "age"]  # not what tells the outcome
    devices = {group["value"]: group for group in values["groups"]["device"]}
    assert set(devices) == {"A", "B"}
    for group in devices.values():
        assert group["estimates"]["auc"]["low"] < group["estimates"]["auc"]["value"]
        assert not group["warning"]
    gap = devices["A"]["apart"]["false_negatives"]
    assert gap["value"] == pytest.approx(
        devices["A"]["estimates"]["false_negatives"]["value"]
        - devices["B"]["estimates"]["false_negatives"]["value"]
    )
    ages = values["groups"]["age"]
    assert [group["value"] for group in ages][-1] == "unknown"
    few = ages[-1]["num_positive"] < settings.least_positives
    assert few == ages[-1]["warning"].endswith("whom it misses is not known")


def test_a_group_that_is_missed_more_often_is_said(judged):
    _, values = judged
    group = values["groups"]["device"][0]
    group["apart"]["false_negatives"] |= {"value": 0.3, "low": 0.1, "high": 0.5}
    told = f"device {group['value']}: more false negatives than others, +0.300 [+0.100, +0.500]"
    assert told in remarks(values)


def test_the_tables_have_a_row_for_each(judged):
    _, values = judged
    assert len(rates_table(values).rows) == 1
    assert [row[0] for row in worth_table(values).rows] == list(values["worth"])
    num_groups = sum(map(len, values["groups"].values()))
    assert len(groups_table(values).rows) == num_groups


def test_bands_lie_between_the_edges():
    assert [band(value, (40, 60)) for value in (39.9, 40, 60)] == ["<40", "40-60", ">=60"]


def test_a_model_is_kept_and_read_again(tmp_path, fitted):
    model = fitted[-1]
    write_risk(tmp_path / "risk.json", model)
    again = read_risk(tmp_path / "risk.json")
    record = {"age": 61.0, "device": "A"}
    assert again.probability(record) == model.probability(record)
    (tmp_path / "risk.json").write_text(json.dumps({"base": 1}), encoding="utf-8")
    with pytest.raises(DataError, match="is no risk model"):
        read_risk(tmp_path / "risk.json")


def test_columns_that_tell_nothing_give_everyone_the_same_risk():
    """Log-odds of folds that leave a patient out then turn around, which is no risk."""
    ids = [f"s{number}" for number in range(80)]
    truth = {each: number % 4 == 0 for number, each in enumerate(ids)}
    flat = 0
    for seed in range(4):
        sides = np.random.default_rng(seed).choice(["left", "right"], len(ids))
        known = {each: {"side": str(side)} for each, side in zip(ids, sides, strict=True)}
        columns = Columns(is_number={"side": False}, of_study=known, left_out={})
        model = fit_risk(columns, truth, {each: each for each in ids}, RiskConfig())
        judged = apply_risk(model, columns, truth, {each: each for each in ids})
        assert judged.chance.mean() == pytest.approx(0.25, abs=0.05)
        if not any(model.worth(list(known.values())).values()):
            flat += 1
            assert judged.called.all()  # nobody is missed who cannot be told apart
    assert flat


def test_only_training_patients_teach(tmp_path, training, tested, fitted):
    """Other outcomes of the judged studies change nothing of the model."""
    turned = [
        replace(study, labels={**study.labels, "pathology": "malignant"}, turns=study.turns[1:])
        for study in tested
    ]
    write_studies(tmp_path, [*training, *turned])
    road = load_road("tiny")
    material = gather(tmp_path, road, "test", None, "d")
    assert fit_on(material, road) == fitted[-1]


def test_a_class_that_is_held_out_cannot_be_learned(tmp_path, training, tested):
    write_studies(tmp_path, [*training, *tested])
    road = load_road("tiny", ['train.hold_out={pathology=["malignant"]}'])
    with pytest.raises(DataError, match=r"0 of .* training studies are 'malignant'"):
        fit_on(gather(tmp_path, road, "test", None, "d"), road)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (['risk.groups=["weight"]'], "no column 'weight'; there are"),
        (["risk.bands={device=[1]}"], "column 'device' holds words"),
    ],
)
def test_unknown_groups_are_refused(tmp_path, training, tested, fitted, settings, told):
    from sonoray_jobs.evaluation.structured.risk_bias import group_columns

    with pytest.raises(DataError, match=told):
        group_columns(fitted[1], ["test-1"], load_road("tiny", settings).risk, {})


def several(*patients):
    """Columns, truth and owners of studies, from the outcomes of each patient's."""
    rng = np.random.default_rng(0)
    truth, owner, known = {}, {}, {}
    for place, outcomes in enumerate(patients):
        for number, is_bad in enumerate(outcomes):
            study = f"s{place}-{number}"
            truth[study], owner[study] = bool(is_bad), f"p{place}"
            known[study] = {"age": float(rng.normal(50 + 20 * is_bad, 10))}
    return Columns(is_number={"age": True}, of_study=known, left_out={}), truth, owner


def test_a_fold_of_one_outcome_leaves_the_penalty_to_the_likelihood():
    outcomes = [[0] * 3, [1] * 5, [0] * 4, [0, 0, 1, 0, 0], [0, 0], [1, 1, 0, 0], [0, 0]]
    columns, truth, owner = several(*outcomes)
    wanted, owners = np.array(list(truth.values())), np.array(list(owner.values()))
    judged = [set(wanted[judged]) for _, judged in answer_folds(wanted, owners, 0)]
    assert min(map(len, judged)) == 1
    model = fit_risk(columns, truth, owner, RiskConfig())
    assert model.penalty == 10.0  # and not the first, as if none could be told apart


def test_patients_with_all_of_an_outcome_are_too_few_to_learn_from():
    with pytest.raises(DataError, match=r"4 of 10 training .* in whichever fold one is left out"):
        fit_risk(*several([0], [0] * 3, [1] * 3, [1, 0, 0]), RiskConfig())


def test_a_column_that_is_the_same_for_all_training_studies_has_no_term(fitted):
    """Of one value the deviation is no 0 but what rounding leaves: 1.4e-17 of 0.1."""
    settings, _, columns, other, patients, model = fitted
    truth = {study: study.endswith(("1", "3", "5")) for study in patients if "train" in study}
    constant = replace(
        columns,
        is_number={**columns.is_number, "dose": True},
        of_study={
            study: {**own, "dose": 0.1 if study in truth else 0.2}
            for study, own in columns.of_study.items()
        },
    )
    assert np.std([0.1] * 399) != 0
    found = fit_risk(constant, truth, patients, settings)
    assert found == fit_risk(columns, truth, patients, settings)
    values = judge_risk(
        model,
        apply_risk(model, constant, other, patients),
        constant,
        constant,
        RiskConfig(groups=("device",)),
        Bootstrap(num_resamples=1000),
    )
    assert values["left_out"]["dose"] == "is the same for all training studies"
    with pytest.raises(DataError, match="'dose' is the same for all training studies; name others"):
        fit_risk(constant, truth, patients, RiskConfig(columns=("dose",)))
    with pytest.raises(DataError, match="no patient column is left: each is the same"):
        fit_risk(constant.only(["dose"]), truth, patients, settings)


def test_bias_is_told_of_columns_that_the_risk_is_not_learned_from(tmp_path, training, tested):
    write_studies(tmp_path, [*training, *tested])
    chosen = ['risk.columns=["age"]', "evaluate.bootstrap_samples=1000"]
    road = load_road("tiny", [*chosen, 'risk.groups=["device"]'])
    material = gather(tmp_path, road, "test", None, "d")
    assert material.columns.names == ["age"]
    assert all(set(own) <= {"age"} for own in material.columns.of_study.values())
    model = fit_on(material, road)
    assert set(model.terms) == {"age"}

    def groups(settings):
        judged = apply_risk(model, material.columns, material.outcomes(tested), material.patients)
        bootstrap = Bootstrap(num_resamples=1000)
        given = (model, judged, material.columns, material.everything, settings, bootstrap)
        return judge_risk(*given)["groups"]

    assert list(groups(road.risk)) == ["device"]
    usual = groups(load_road("tiny", chosen).risk)  # all but those that tell the outcome
    assert set(usual) == {"device", "side", "age"}


def test_a_study_is_called_at_the_threshold(fitted):
    model = fitted[-1].model_copy(update={"threshold": fitted[-1].probability({"age": 50.0})})
    assert model.calls({"age": 50.0})
    assert not model.calls({"age": 49.0})
