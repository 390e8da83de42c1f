"""A workspace's own MLflow store after the workspace was copied or moved."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from sonoray.tracking.connection import open_store
from sonoray.tracking.registry import register, resolve_model
from sonoray.tracking.relocate import relocate_artifacts
from sonoray.tracking.runs import held_run, log_results
from sonoray.workspace import Workspace


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """A workspace that was used in another place; nothing is left there."""
    root = tmp_path_factory.mktemp("moves")
    before = Workspace.open(root / "a first place")
    store = open_store(before)
    with held_run(
        store, before.runs, "t1", config={"a": 1}, experiment="lab/an experiment"
    ) as run_id:
        log_results(store, run_id, {}, {"notes/a.txt": "kept"})
    model = root / "model"
    model.mkdir()
    (model / "manifest.json").write_text("{}")
    register(store, model, "m", run_id=run_id)
    shutil.move(before.root, root / "another place")
    return Workspace.open(root / "another place"), run_id


def test_artifacts_and_models_are_read_and_written_in_the_new_place(moved, tmp_path, caplog):
    workspace, run_id = moved
    store = open_store(workspace)
    assert f"the workspace was moved to {workspace.root}" in caplog.text
    caplog.clear()
    open_store(workspace)
    assert not caplog.text
    here = workspace.root / "artifacts"
    path = store.client.download_artifacts(run_id, "notes/a.txt", str(tmp_path))
    assert Path(path).read_text() == "kept"
    folder = resolve_model(store, "models:/m/1", workspace.models)
    assert folder.is_relative_to(here)
    with held_run(store, workspace.runs, "t2", config={}, experiment="lab/an experiment") as other:
        log_results(store, other, {}, {"b.txt": "new"})
    assert [file.name for file in here.rglob("b.txt")] == ["b.txt"]
    assert not (workspace.root.parent / "a first place").exists()


def test_no_path_of_the_old_place_is_left(moved):
    workspace, _ = moved
    open_store(workspace)
    database = workspace.root / "mlflow.db"
    assert relocate_artifacts(database, workspace.root / "artifacts") == 0
    with closing(sqlite3.connect(database)) as connection:
        assert "first%20place" not in "".join(connection.iterdump())


def test_an_experiment_with_a_place_of_its_own_is_left_alone(moved):
    workspace, _ = moved
    store = open_store(workspace)
    elsewhere = "s3://bucket/artifacts/elsewhere-of-mine"
    number = store.client.create_experiment("mine", artifact_location=elsewhere)
    open_store(workspace)
    assert store.client.get_experiment(number).artifact_location == elsewhere
