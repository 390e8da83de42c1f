"""`sonoray runs` over a real MLflow store: what it lists, what it puts side by side."""

import json
import math
from dataclasses import replace

import pytest

from sonoray.errors import ConfigError, DataError
from sonoray.tracking.connection import open_store
from sonoray.tracking.runs import RunDataset, child_tags, held_run, log_results
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation.listing.list_runs import run
from sonoray_jobs.training.train import sole_training

PARENT = "ablate-visual-0123"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """An ablation with two trainings below it, one that is at it, and a run of somebody else."""
    workspace = Workspace.open(tmp_path_factory.mktemp("runs"))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        store = open_store(workspace)
    with held_run(
        store, workspace.runs, PARENT, config={"a": 1}, tags={"sonoray.ablation": "visual"}
    ) as parent:
        pass
    for seed, accuracy in enumerate((0.75, 0.875)):
        tags = {
            **child_tags(parent, {"ablation": "visual", "seed": str(seed)}),
            "sonoray.run": f"phantom-{seed}abc",
            "sonoray.clip": "c" * 16,
            "sonoray.dataset": "d" * 16,
        }
        params = {
            "train": {"seed": seed, "stages": [{"epochs": 1}, {"epochs": 2 + seed}]},
            "model": {"rank": 8},
            "dataset": {"name": "phantom"},
        }
        with held_run(
            store,
            workspace.runs,
            f"phantom-{seed}abc",
            config=params,
            params=params,
            tags=tags,
            dataset=RunDataset(name="phantom", digest="d" * 16, source="phantom"),
            title=f"phantom tiny seed={seed}",
        ) as run_id:
            pass
        log_results(store, run_id, {"test/accuracy": accuracy, "loss": 1.0 + seed})
    store.client.log_metric(run_id, "auc", math.inf)  # as an older version did
    store.client.create_run("0", run_name="somebody else's")
    tags = {"sonoray.run": "phantom-killed"}
    with held_run(store, workspace.runs, "phantom-killed", config={"x": 1}, tags=tags) as killed:
        pass
    store.client.update_run(killed, status="RUNNING")  # nobody was left to end it
    with sole_training(workspace.runs / "phantom-killed"):
        pass
    return workspace


@pytest.fixture(autouse=True)
def own_store(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_runs_are_listed_with_what_they_reached_and_how_they_differ(workspace):
    listed = run(workspace=workspace, where=["kind = training", "state = finished"])
    header, *rows = listed.lines()
    assert header.split() == [
        "name", "state", "started", "minutes", "test/accuracy", "loss", "epochs", "seed",
    ]  # fmt: skip
    assert "phantom tiny seed=1" in rows[0]  # the newest
    assert rows[0].split()[-4:] == ["0.875", "2", "3", "1"]
    assert rows[1].split()[-4:] == ["0.75", "1", "2", "0"]
    assert listed.differing == ["train.stages.1.epochs", "train.seed"]
    assert any(line.startswith("in a browser: ") for line in listed.lines())


def test_a_long_list_of_names_is_cut_where_nobody_asked_for_it(workspace):
    listed = run(workspace=workspace, where=["kind = training", "state = finished"])
    names = ['["q_proj", "v_proj", "o_proj"]', '["q_proj", "v_proj", "down_proj"]']
    runs = [
        replace(each, settings={**each.settings, "model.names": own})
        for each, own in zip(listed.runs, names, strict=True)
    ]
    text = "\n".join(replace(listed, runs=runs).lines())
    assert '["q_proj", "v_proj", "o_pro…' in text
    assert names[0] not in text
    assert names[1] in "\n".join(replace(listed, runs=runs, columns=("model.names",)).lines())


def test_all_kinds_are_listed_and_the_runs_of_others_are_not(workspace):
    listed = run(workspace=workspace)
    assert [each.kind for each in listed.runs] == ["training"] * 3 + ["ablation"]
    assert "kind" in listed.lines()[0].split()
    parents = {each.name: each.parent for each in listed.runs}
    assert parents["phantom tiny seed=0"] == listed.runs[-1].run_id


def test_a_killed_training_is_stopped_and_one_that_goes_on_is_running(workspace):
    def state():
        (found,) = run(workspace=workspace, where=["training = phantom-killed"]).runs
        return found.state

    assert state() == "stopped"
    with sole_training(workspace.runs / "phantom-killed"):
        assert state() == "running"
    assert state() == "stopped"


def test_the_best_are_found_and_what_is_left_out_is_said(workspace):
    listed = run(
        workspace=workspace, sort="-test/accuracy", limit=1, columns=["test/accuracy", "auc"]
    )
    header, row, _, note, *_ = listed.lines()
    assert header.split() == ["name", "test/accuracy", "auc"]
    assert row.split()[-2:] == ["0.875", "-"]  # an infinite value is none
    assert note == "and 3 more; --limit N, or --where"
    assert run(workspace=workspace, where=["auc > 0"]).lines()[0] == "no run fits"


def test_named_runs_stand_side_by_side(workspace):
    lines = run(workspace=workspace, names=["phantom-0", "phantom tiny seed=1"]).lines()
    rows = {line[:40].split()[0]: line.split()[1:] for line in lines if line.strip()}
    assert rows["test/accuracy"] == ["0.75", "0.875"]
    assert rows["train.stages.1.epochs"] == ["2", "3"]
    assert rows["dataset"] == ["d" * 16, "d" * 16]  # the later of the rows of this name
    assert "model.rank" not in rows  # it does not differ
    assert "question by question: sonoray compare phantom-0abc phantom-1abc" in lines


def test_one_run_is_shown_with_all_its_settings(workspace):
    shown = "\n".join(run(workspace=workspace, names=["phantom-0"]).lines())
    assert "model.rank" in shown
    assert "train.stages.0.epochs" in shown


def test_a_script_reads_everything(workspace):
    found = run(workspace=workspace, where=["train.seed = 1"]).to_json()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    (one,) = found["runs"]
    assert one["training"] == "phantom-1abc"
    assert one["stands_on"]["clip"] == "c" * 16
    assert one["settings"]["train.stages.1.epochs"] == "3"
    assert one["metrics"] == {"auc": None, "loss": 2.0, "test/accuracy": 0.875}
    assert one["data"] == {"dataset.name": "phantom"}
    assert (one["dataset"], one["failures"], found["total"]) == ("phantom", 0, 1)


def test_what_does_not_fit_is_refused(workspace):
    with pytest.raises(DataError, match="no training or MLflow run 'kidney'"):
        run(workspace=workspace, names=["kidney"])
    with pytest.raises(DataError, match="fits several"):
        run(workspace=workspace, names=["phantom-"])
    with pytest.raises(ConfigError, match=r"--columns 'los': .* did you mean loss"):
        run(workspace=workspace, columns=["los"])
    with pytest.raises(ConfigError, match="are for a list"):
        run(workspace=workspace, names=["phantom-0"], sort="loss")
    with pytest.raises(DataError, match="experiment 'kidney'"):
        run(workspace=workspace, experiment="kidney")
