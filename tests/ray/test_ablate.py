"""Two variants with one seed each, as children on a real cluster; one of them fails at first."""

import json
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from sonoray.cluster.step_board import StepBoard
from sonoray.study.contract import iter_studies
from sonoray.tracking.connection import open_store
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation import compare, evaluate
from sonoray_jobs.evaluation.ablation import ablate
from sonoray_jobs.evaluation.ablation.children import find_outcome, make_children, shared_by
from sonoray_jobs.evaluation.ablation.choice import Choice
from sonoray_jobs.evaluation.ablation.parallel import place, run_child
from sonoray_jobs.evaluation.ablation.variants import with_values
from sonoray_jobs.outputs.find import evaluation_stage, find_parts, training_name, training_stage
from sonoray_jobs.training.train import sole_training

pytestmark = [pytest.mark.ray, pytest.mark.slow]

DATASET = "phantom"
CHOICE = Choice(name="site-cue", dataset=DATASET, seeds=(1,))
REPORT = {"report.md", "report.json", "report.png"}


def test_a_failed_child_leaves_the_others_and_the_rerun_does_it_alone(
    ray_local, tiny_road, tmp_path
):
    workspace, road = Workspace.open(tmp_path), tiny_road
    placed = place(road)
    children = make_children(CHOICE.ablation(workspace, placed), placed, CHOICE.seeds)
    without, cued = children
    given = {"workspace": workspace, "road": road, "choice": CHOICE}
    assert "phantom: to do: ingest, bootstrap, embed" in ablate.plan(**given).lines()[1]
    (shared,) = shared_by(children)
    assert list(shared.prepare(workspace, None))
    dataset, parts = workspace.dataset(DATASET), find_parts(workspace, road, DATASET)
    assert ablate.plan(**given).lines() == [
        "shared stages:",
        "  phantom: done",
        "2 children:",
        "  without, seed 1: to train",
        "  with, seed 1: to train",
    ]

    with sole_training(workspace.runs / training_name(training_stage(cued.road, dataset, parts))):
        first = ablate.run(**given, parallel=2)
    assert first.exit_code == 1
    assert list(first.failures) == [cued.label]
    assert "is running in another process" in first.failures[cued.label]
    client = open_store(workspace).client
    assert client.get_run(first.parent_run_id).info.status == "FAILED"
    assert [child["variant"] for child in first.report["children"]] == ["without"]
    assert ablate.plan(**given).children[0][1].startswith("done (")

    second = ablate.run(**given)
    assert second.exit_code == 0
    assert second.parent_run_id == first.parent_run_id
    parent = client.get_run(second.parent_run_id)
    assert parent.info.status == "FINISHED"
    below = client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    )
    assert {run.data.tags["sonoray.variant"] for run in below} == {"without", "with"}
    assert all(run.data.tags["sonoray.seed"] == "1" for run in below)
    reported = {child["run_id"]: child for child in second.report["children"]}
    assert set(reported) == {run.info.run_id for run in below}
    for run in below:
        cue = run.data.tags["sonoray.variant"] == "with"
        assert run.data.params["train.site_cue"] == str(cue).lower()
        assert reported[run.info.run_id]["elapsed_s"] > 0
    assert first.report["children"][0] in second.report["children"]  # not trained again
    artifacts = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert artifacts >= REPORT
    assert {path.name for path in second.output.path.iterdir()} == REPORT | {"manifest.json"}
    assert json.loads((second.output.path / "report.json").read_text()) == second.report

    asked = {}
    for child in children:
        trained = find_outcome(workspace, child).trained
        stage = evaluation_stage(child.road, DATASET, dataset, trained, "test")
        rows = pq.read_table(stage.path(workspace.stages) / "predictions.parquet").to_pylist()
        asked[child.variant] = [row["question"] for row in rows]
        right = [row["answer"] == row["truth"] for row in rows if row["task"] == "closed"]
        group = second.report["comparisons"][0]["groups"][0]
        value = group["variants"][child.variant]["value"]
        assert value == pytest.approx(sum(right) / len(right))
    sites = {
        study.study_id: study.labels["site"] for study in iter_studies(dataset.path, split="test")
    }
    assert all(question.startswith("检查部位：") for question in asked["with"])
    assert [question.partition("。")[2] for question in asked["with"]] == asked["without"]
    assert {question.partition("。")[0].partition("：")[2] for question in asked["with"]} == set(
        sites.values()
    )

    names = [child["training"] for child in second.report["children"]]
    compared = compare.run(workspace=workspace, first=names[0], second=names[1])
    assert sum(topic.num_questions for topic in compared.topics) == len(asked["with"])

    choosing = given | {"choice": replace(CHOICE, split="validation")}
    states = dict(ablate.plan(**choosing).children)
    assert all(state.startswith("to evaluate (") for state in states.values())
    uri = open_store(workspace).uri
    run_child(replace(without, split="validation"), workspace, uri, {}, StepBoard.start())
    states = dict(ablate.plan(**choosing).children)
    assert states[without.label].startswith("done (")
    assert states[cued.label].startswith("to evaluate (")

    third = ablate.run(**given)
    assert third.output.reused
    assert third.report == second.report

    organ = next(iter_studies(dataset.path, split="test")).labels["organ"]
    only = with_values(without.road, {"evaluate.only": {"organ": organ}})
    found = evaluate.run(workspace=workspace, road=only, dataset=DATASET)
    rows = pq.read_table(found.output.path / "predictions.parquet").to_pylist()
    studies = iter_studies(dataset.path, split="test")
    wanted = {study.study_id for study in studies if study.labels["organ"] == organ}
    assert {row["study_id"] for row in rows} == wanted
    metrics = client.get_run(found.summary["run_id"]).data.metrics
    assert f"test-organ.{organ}/accuracy" in metrics
    assert "test/accuracy" in metrics
