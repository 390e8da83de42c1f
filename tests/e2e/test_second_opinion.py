"""Answers of a finished road's dataset, doubted and put to its model."""

import csv
import json
from collections import defaultdict

import pytest

from sonoray.errors import ConfigError, DataError
from sonoray.study.contract import iter_studies
from sonoray_jobs.data import relabel
from sonoray_jobs.evaluation.ablation.variants import with_values
from sonoray_jobs.evaluation.opinion import second_opinion

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def given_of(finished_road, **settings):
    values = {f"opinion.{name}": value for name, value in settings.items()}
    return {
        "workspace": finished_road.workspace,
        "road": with_values(finished_road.road, values),
        "dataset": "phantom",
        "run": finished_road.trained.name,
    }


def doubtful_topic(finished_road):
    """A question whose every answer is that of several patients."""
    patients = defaultdict(lambda: defaultdict(set))
    for study in iter_studies(finished_road.workspace.dataset("phantom").path):
        for turn in study.turns:
            if turn.options:
                patients[turn.topic][turn.answer].add(study.patient_key)
    return next(
        topic for topic, own in patients.items() if len(own) > 1 and min(map(len, own.values())) > 1
    )


def test_answers_are_doubted_asked_about_and_mended(finished_road):
    topic = doubtful_topic(finished_road)
    given = given_of(finished_road, check=8, calls=500)
    found = second_opinion.run(**given, topic=topic, split="all", truth="phantom")
    values, folder = found.values, found.output.path
    opinions = [json.loads(line) for line in (folder / "opinions.jsonl").open(encoding="utf-8")]
    assert len(opinions) == values["num_suspect"] == sum(values["verdicts"].values())
    assert 0 < values["num_calls"] <= values["most_calls"] == 500
    assert set(values["ways"]) == {"exemplars", "statement", "options"}
    assert values["ways"]["options"]["means"]
    assert values["num_learned"] > 0
    assert values["answers"]["num_wrong"] == 0  # the dataset beside itself
    changed = {
        each["study_id"]: each["suggested"] for each in opinions if each["verdict"] == "change"
    }
    assert values["answers"]["sets"]["mended"]["num_broken"] == len(changed)
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as file:
        mended = {row["study_id"]: row["answer"] for row in csv.DictReader(file)}
    with (folder / "given.csv").open(encoding="utf-8", newline="") as file:
        before = {row["study_id"]: row["answer"] for row in csv.DictReader(file)}
    assert {each: mended[each] for each in mended if mended[each] != before[each]} == changed
    told = found.lines()
    assert told[0].startswith(f"all: {len(before)} answers about {topic}")
    assert any("AUC, right statements against wrong ones" in line for line in told)
    assert second_opinion.run(**given, topic=topic, split="all", truth="phantom").output.reused

    workspace = finished_road.workspace
    made = relabel.run(
        workspace=workspace, dataset="phantom", table=folder / "labels.csv", name="mended"
    )
    assert made.values["changed"] == len(changed)
    studies = iter_studies(workspace.dataset("mended").path)
    answers = {each.study_id: next(t.answer for t in each.turns if t.topic == topic and t.options)
               for each in studies if each.study_id in mended}  # fmt: skip
    assert answers == mended


def test_what_cannot_be_doubted_is_refused(finished_road):
    given, topic = given_of(finished_road), doubtful_topic(finished_road)
    run = second_opinion.run
    with pytest.raises(DataError, match="no closed question is asked about 'report'"):
        run(**given, topic="report")
    with pytest.raises(DataError, match="split 'tset' is unknown"):
        run(**given, topic=topic, split="tset")
    with pytest.raises(ConfigError, match=r"--plant 0\.9 is out of range"):
        run(**given, topic=topic, noise=0.9)
    with pytest.raises(ConfigError, match="leave one"):
        run(**given, topic=topic, noise=0.2, truth="phantom")
    with pytest.raises(DataError, match="no dataset 'captions'"):
        run(**given, topic=topic, claims="captions")
    with pytest.raises(DataError, match=r"learned the true answers of .* sonoray relabel"):
        run(**given, topic=topic, split="train", noise=0.2)
    with pytest.raises(DataError, match=r"--plant 0.0005 plants no error among the \d+ test ans"):
        run(**given, topic=topic, noise=0.0005)
    with pytest.raises(DataError, match=r"opinion.calls leaves 1 calls, and the check of"):
        run(**given_of(finished_road, calls=1), topic=topic)
    with pytest.raises(ConfigError, match=r"opinion.calls = 0: .* greater than or equal to 1"):
        given_of(finished_road, calls=0)
