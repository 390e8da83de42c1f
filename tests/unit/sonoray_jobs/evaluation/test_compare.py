"""Comparing evaluations that lie in a workspace, made here from random answers."""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sonoray.errors import DataError
from sonoray.files.json_files import write_json
from sonoray.stages import Stage, StageOutput, run_stage
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation import compare
from sonoray_jobs.evaluation.predictions import read_predictions
from sonoray_jobs.outputs.find import Trained, answer_settings, evaluation_stage
from sonoray_jobs.road.config import EvaluateConfig, RoadConfig, load_road

REPORTS = ["左叶见低回声结节，边界清。", "未见明显异常。", "右叶见囊性病灶，边界清。"]
SETTINGS = EvaluateConfig(bootstrap_samples=1000, positive_options={"pathology": "良性"})


def predictions(seed: int, *, right: float, num_studies: int = 30):
    generator = np.random.default_rng(seed)
    rows = []
    for number in range(num_studies):
        truth = number % 2
        given = truth if generator.random() < right else 1 - truth
        scores = {("良性", "恶性")[given]: -0.5, ("良性", "恶性")[1 - given]: -1.5}
        common = {
            "study_id": f"s{number}", "patient_key": f"p{number // 2}",
        }  # fmt: skip
        rows += [
            common
            | {
                "topic": "pathology", "task": "closed", "question": "性质？",
                "truth": ("良性", "恶性")[truth], "answer": ("良性", "恶性")[given],
                "generated": "良性", "option_scores": json.dumps(scores),
            },
            common
            | {
                "topic": "report", "task": "report", "question": "报告？",
                "truth": REPORTS[number % 3], "generated": "",
                "answer": REPORTS[int(generator.integers(3))], "option_scores": "{}",
            },
        ]  # fmt: skip
    return rows


def evaluated(
    workspace: Workspace,
    training: str,
    rows,
    *,
    dataset="phantom",
    dataset_key="d1",
    split="test",
    settings=SETTINGS,
    road=None,
) -> Path:
    """An evaluation as `sonoray evaluate` leaves it, and the training that it names."""
    run_folder = workspace.runs / training
    run_folder.mkdir(parents=True, exist_ok=True)
    run_id = f"id-of-{training}"
    (run_folder / "mlflow_run_id").write_text(run_id)

    def make(folder: Path):
        pq.write_table(pa.Table.from_pylist(rows), folder / "predictions.parquet")
        write_json(folder / "settings.json", answer_settings(road or RoadConfig(evaluate=settings)))
        return {"run_id": run_id}

    stage = evaluation_stage(
        RoadConfig(evaluate=settings),
        dataset,
        StageOutput(path=workspace.root, manifest={"key": dataset_key}, reused=True),
        Trained(name=training, run_id=run_id, checkpoint=run_folder, metrics={}, reused=True),
        split,
    )
    return run_stage(stage, workspace.stages, make).path


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Workspace:
    workspace = Workspace.open(tmp_path_factory.mktemp("compare"))
    evaluated(workspace, "phantom-aaa1", predictions(1, right=0.4))
    evaluated(workspace, "phantom-aab2", predictions(2, right=0.9)[::-1])  # in another order
    evaluated(workspace, "phantom-aab2", predictions(3, right=0.6), split="validation")
    (workspace.runs / "phantom-new").mkdir()
    (workspace.runs / "phantom-new" / "mlflow_run_id").write_text("id-of-new")
    return workspace


def compared(workspace, first, second, **arguments):
    return compare.run(workspace=workspace, first=first, second=second, **arguments)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("phantom-aaa1", "phantom-aab2"),
        ("id-of-phantom-aaa1", "id-of-phantom-aab2"),
        ("phantom-aaa", "phantom-aab"),
        ("phantom-aaa1", "folder"),
        ("folder", "phantom-aab2"),
    ],
)
def test_an_evaluation_has_many_names(workspace, first, second):
    folders = {
        training: compare.find_evaluation(workspace, training, "test").path
        for training in ("phantom-aaa1", "phantom-aab2")
    }
    first = str(folders["phantom-aaa1"]) if first == "folder" else first
    second = str(folders["phantom-aab2"]) if second == "folder" else second
    found = compared(workspace, first, second)
    assert (found.first.path, found.second.path) == tuple(folders.values())
    assert (found.first.split, found.first.dataset) == ("test", "phantom")


def test_questions_are_paired_whatever_their_order(workspace):
    found = compared(workspace, "phantom-aaa1", "phantom-aab2")
    rows, others = (predictions(1, right=0.4), predictions(2, right=0.9))
    right = [
        [row["answer"] == row["truth"] for row in side if row["topic"] == "pathology"]
        for side in (rows, others)
    ]
    pathology, report = found.topics
    accuracy = pathology.differences["accuracy"]
    assert (accuracy.first, accuracy.second) == (np.mean(right[0]), np.mean(right[1]))
    assert accuracy.p_value < 0.05
    assert pathology.mcnemar.only_second == sum(b and not a for a, b in zip(*right, strict=True))
    assert "positive_f1" in pathology.differences  # as the first evaluation was configured
    assert (report.topic, report.closed) == ("report", False)
    assert found.num_studies == 30
    assert found.all_closed.differences["accuracy"] == accuracy  # there is one closed topic
    assert found.to_json()["all_closed"]["num_questions"] == 30
    assert sum(line.startswith("all closed questions") for line in found.lines()) == 2


def test_lines_show_both_differences_and_disagreements(workspace):
    found = compared(workspace, "phantom-aaa1", "phantom-aab2", show=3)
    text = "\n".join(found.lines())
    assert "first:  phantom-aaa1 (MLflow run id-of-phantom-aaa1)" in text
    assert "60 questions of 30 studies" in text
    assert "McNemar p (over questions)" in text
    assert "settings that differ" not in text
    assert len(found.disagreements) == 3
    for item in found.disagreements:
        assert item.first_right != item.second_right  # the telling ones come first
        assert f"study {item.study_id}, {item.topic}: {item.question}" in text
        assert f": {item.second}" in text
    assert not compared(workspace, "phantom-aaa1", "phantom-aab2").disagreements


def test_the_list_of_all_disagreements_has_as_many_as_are_counted(workspace):
    found = compared(workspace, "phantom-aaa1", "phantom-aab2", show=1000)
    assert len(found.disagreements) == sum(topic.num_different for topic in found.topics)
    values = json.loads(json.dumps(found.to_json()))
    assert values["disagreements"][0]["first"] == found.disagreements[0].first
    assert values["topics"]["pathology"]["differences"]["auc"]["p_value"] <= 1


def test_a_folder_says_which_split(workspace):
    evaluated(workspace, "phantom-aaa1", predictions(4, right=0.5), split="validation")
    one, other = (
        compare.find_evaluation(workspace, name, "validation").path
        for name in ("phantom-aaa1", "phantom-aab2")
    )
    assert compared(workspace, str(one), str(other)).first.split == "validation"
    assert compared(workspace, "phantom-aaa1", str(other)).first.path == one
    assert compared(workspace, "phantom-aaa1", "phantom-aab2", split="validation").first.path == one
    with pytest.raises(DataError, match="is of the split 'validation', not 'test'"):
        compared(workspace, str(one), str(other), split="test")


def test_the_newest_of_several_evaluations_counts_and_other_settings_are_named(tmp_path):
    workspace = Workspace.open(tmp_path)
    old = evaluated(workspace, "a", predictions(1, right=0.5))
    new = evaluated(
        workspace, "a", predictions(1, right=0.6), settings=SETTINGS.model_copy(update={"seed": 1})
    )
    evaluated(workspace, "b", predictions(2, right=0.5))
    os.utime(old / "manifest.json", ns=(10**9, 10**9))
    found = compared(workspace, "a", "b")
    assert found.first.path == new
    assert found.changed == {"evaluate.seed": (1, 0)}
    assert "  evaluate.seed: 1, 0" in found.lines()


def test_settings_of_the_trainings_that_differ_are_listed(tmp_path):
    workspace = Workspace.open(tmp_path)
    one = load_road("tiny")
    other = load_road("tiny", ["model.sampling.type=first", "train.num_workers=1"])
    stages = (one.train.stages[0], one.train.stages[1].model_copy(update={"epochs": 3}))
    other = other.model_copy(update={"train": other.train.model_copy(update={"stages": stages})})
    evaluated(workspace, "a", predictions(1, right=0.5), road=one)
    evaluated(workspace, "b", predictions(2, right=0.5), road=other)
    found = compared(workspace, "a", "b")
    sampling = one.model.sampling.model_dump()
    assert found.changed == {
        "model.sampling.type": ("adaptive", "first"),
        "train.stages.1.epochs": (12, 3),
        **{
            f"model.sampling.{key}": (value, None)
            for key, value in sampling.items()
            if key not in ("type", "num_selected")
        },
    }
    assert found.to_json()["changed"]["train.stages.1.epochs"] == {"first": 12, "second": 3}
    lines = found.lines()
    assert '  model.sampling.type: "adaptive", "first"' in lines
    assert "  train.stages.1.epochs: 12, 3" in lines
    assert "note:" not in "\n".join(lines)


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ("phantom-zzz", "phantom-aab2", ["'phantom-zzz'", "phantom-aaa1, phantom-aab2"]),
        ("", "phantom-aab2", ["''", "trainings there"]),
        ("phantom-aa", "phantom-aab2", ["'phantom-aa' fits several", "phantom-aaa1"]),
        (
            "phantom-new",
            "phantom-aab2",
            ["no evaluation of the whole split 'test'", "--split test"],
        ),
        ("phantom-aab2", "id-of-phantom-aab2", ["both names mean"]),
    ],
)
def test_a_name_that_means_nothing_is_one_line(workspace, first, second, words):
    with pytest.raises(DataError) as caught:
        compared(workspace, first, second)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_evaluations_that_do_not_belong_together_are_refused(workspace, tmp_path):
    other = Workspace.open(tmp_path)
    rows = predictions(5, right=0.5)
    kidney = evaluated(other, "kidney-1", rows, dataset="kidney", dataset_key="d2")
    anew = evaluated(other, "phantom-1", rows, dataset_key="d3")
    fewer = evaluated(other, "phantom-2", rows[:-1])
    for folder, words in (
        (kidney, "evaluated on 'phantom' and 'kidney'"),
        (anew, "two different states of 'phantom'"),
        (fewer, r"do not hold the same questions \(60 and 59, 1 of one alone\)"),
        (tmp_path, "is no evaluation; give a training, an MLflow run or a folder that sonoray"),
    ):
        with pytest.raises(DataError, match=words):
            compared(workspace, "phantom-aaa1", str(folder))
    no_evaluation = run_stage(Stage(name="export-x", config={}), tmp_path, lambda folder: {})
    with pytest.raises(DataError, match="output of 'export-x', not of an evaluation"):
        compared(workspace, "phantom-aaa1", str(no_evaluation.path))
    with pytest.raises(DataError, match="split 'tset' is unknown"):
        compared(workspace, "phantom-aaa1", "phantom-aab2", split="tset")


def test_a_question_that_a_study_asks_twice_is_paired_twice(tmp_path):
    workspace = Workspace.open(tmp_path)
    rows = predictions(6, right=0.5, num_studies=4)
    rows += [row | {"answer": row["truth"]} for row in rows if row["topic"] == "report"]
    evaluated(workspace, "a", rows)
    folder = evaluated(workspace, "b", predictions(7, right=0.5, num_studies=4) + rows[-4:])
    assert len(read_predictions(folder)) == 12
    _, report = compared(workspace, "a", "b").topics
    assert report.num_questions == 8
    assert report.both_right >= 4


def test_a_training_means_its_evaluation_of_the_whole_split(workspace):
    whole = compare.find_evaluation(workspace, "phantom-aaa1", "test").path
    part = evaluated(
        workspace,
        "phantom-aaa1",
        predictions(1, right=0.4, num_studies=4),
        settings=SETTINGS.model_copy(update={"only": {"organ": "liver"}}),
    )
    assert part != whole
    assert compare.find_evaluation(workspace, "phantom-aaa1", "test").path == whole
    assert compare.find_evaluation(workspace, str(part), "test").path == part


def test_a_training_means_its_evaluation_of_every_topic_where_it_has_one(workspace):
    whole = compare.find_evaluation(workspace, "phantom-aaa1", "test").path
    rows = predictions(1, right=0.4, num_studies=4)
    settings = SETTINGS.model_copy(update={"topics": ("report",)})
    part = evaluated(workspace, "phantom-aaa1", rows, settings=settings)
    assert part != whole
    assert (part / "manifest.json").stat().st_mtime_ns > (
        whole / "manifest.json"
    ).stat().st_mtime_ns
    assert compare.find_evaluation(workspace, "phantom-aaa1", "test").path == whole
    alone = evaluated(workspace, "phantom-only1", rows, settings=settings)
    assert compare.find_evaluation(workspace, "phantom-only1", "test").path == alone
