"""Sweeps through a real Ray Tune: trainings as trials, one MLflow parent, gone on with."""

import json
import signal
import subprocess
import sys
import time

import pytest

from sonoray.tracking.connection import open_store
from sonoray.tracking.outbox import OUTBOX
from sonoray.tracking.run_id import RUN_ID_FILE
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation.ablation.variants import with_values
from sonoray_jobs.evaluation.listing import list_runs
from sonoray_jobs.evaluation.sweeping import sweep
from sonoray_jobs.evaluation.sweeping.search import Search
from sonoray_jobs.evaluation.sweeping.swept import FAILED, FINISHED, STOPPED
from sonoray_jobs.outputs.find import find_parts, training_name, training_stage
from sonoray_jobs.outputs.named_runs import find_run
from sonoray_jobs.training.train import sole_training
from sonoray_jobs.training.unfinished import LOCK

DRIVER = """
import sys
from pathlib import Path
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation.sweeping import sweep
from sonoray_jobs.evaluation.sweeping.search import Search
from sonoray_jobs.road.config import RoadConfig

sweep.run(
    workspace=Workspace.open(Path(sys.argv[1])),
    road=RoadConfig.model_validate_json(sys.argv[2]),
    search=Search(dataset="phantom", over=(sys.argv[3],), method="grid"),
    parallel=1,
)
"""

SEEDS = ("train.seed:[10, 11]",)

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return Workspace.open(tmp_path_factory.mktemp("sweep"))


@pytest.fixture(scope="module")
def road(tiny_road):
    return with_values(tiny_road, {"train.validate_every": "epoch"})


@pytest.mark.usefixtures("ray_local")
def test_a_sweep_ends_bad_trials_early_reports_and_is_gone_on_with(workspace, road, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    search = Search(
        dataset="phantom",
        over=("train.stages.1.learning_rate:log 1e-5..1e-1", "model.lora.rank:[2, 4]"),
        trials=3,
        stop_early=True,
        grace=1,
    )
    swept = sweep.run(workspace=workspace, road=road, search=search, parallel=1)
    states = [trial.state for trial in swept.trials]
    assert len(states) == 3
    assert FAILED not in states, swept.lines()
    assert states.count(FINISHED) >= 1
    assert STOPPED in states, swept.lines()
    for trial in swept.trials:  # no checkpoint of it is of any use now
        left = {path.name for path in (workspace.runs / trial.training).iterdir()}
        assert left <= {LOCK, RUN_ID_FILE, OUTBOX}, trial.state
    best = swept.best
    assert best.objective == min(t.objective for t in swept.trials if t.state == FINISHED)
    # what --run takes, with the settings that were drawn
    made = find_run(workspace, best.training)
    assert made.trained.metrics["validation_loss"] == best.objective
    rate = float(best.point["train.stages.1.learning_rate"])
    assert made.road.train.stages[1].learning_rate == rate
    assert str(made.road.model.lora.rank) == best.point["model.lora.rank"]

    store = open_store(workspace)
    parent = store.client.get_run(swept.parent_run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["best/validation_loss"] == best.objective
    names = {each.path for each in store.client.list_artifacts(swept.parent_run_id)}
    assert {"sweep.md", "sweep.json", "parallel_coordinates.png"} <= names
    listed = list_runs.run(workspace=workspace, where=[f"parent = {swept.parent_run_id}"])
    told = {run.training: run.state for run in listed.runs}
    assert told == {
        trial.training: "finished" if trial.state == FINISHED else "killed"
        for trial in swept.trials
    }
    again = sweep.run(workspace=workspace, road=road, search=search, parallel=1)
    assert again.trials == swept.trials
    assert again.parent_run_id == swept.parent_run_id
    assert json.loads((again.folder / "sweep.json").read_text()) == again.to_json()


@pytest.mark.usefixtures("ray_local")
def test_an_interrupted_sweep_goes_on_tells_what_failed_and_trains_nothing_twice(
    workspace, road, monkeypatch
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    before = set(workspace.stages.glob("train-*"))
    command = [sys.executable, "-c", DRIVER, str(workspace.root), road.model_dump_json(), *SEEDS]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as driver:
        try:
            deadline = time.monotonic() + 500
            while not set(workspace.stages.glob("train-*/manifest.json")) - {
                folder / "manifest.json" for folder in before
            }:
                assert driver.poll() is None, driver.stderr.read()
                assert time.monotonic() < deadline
                time.sleep(0.5)
            driver.send_signal(signal.SIGINT)
            _, said = driver.communicate(timeout=200)
        finally:
            driver.kill()
    assert "KeyboardInterrupt" in said
    done = {folder: folder.stat().st_mtime_ns for folder in workspace.stages.glob("train-*")}
    search = Search(dataset="phantom", over=SEEDS, method="grid")
    store = open_store(workspace)
    (parent,) = [
        run
        for run in list_runs.run(workspace=workspace).runs
        if run.name == search.name(sweep.place(road))
    ]
    assert parent.state == "killed"

    given = {"workspace": workspace, "road": road, "search": search, "parallel": 1}
    placed = with_values(sweep.place(road), {"train.seed": 11})
    parts = find_parts(workspace, placed, "phantom")
    last = training_name(training_stage(placed, workspace.dataset("phantom"), parts))
    with sole_training(workspace.runs / last):
        first = sweep.run(**given)
    assert [trial.state for trial in first.trials] == [FINISHED, FAILED]
    assert "is running in another process" in first.trials[-1].reason
    assert first.exit_code == 1
    assert store.client.get_run(parent.run_id).info.status == "FAILED"

    swept = sweep.run(**given)
    assert [trial.state for trial in swept.trials] == [FINISHED] * 2
    assert last in {trial.training for trial in swept.trials}
    assert swept.exit_code == 0
    assert {folder: folder.stat().st_mtime_ns for folder in done} == done
    assert len(set(workspace.stages.glob("train-*")) - before) == 2
    assert swept.parent_run_id == parent.run_id
    assert store.client.get_run(parent.run_id).info.status == "FINISHED"
