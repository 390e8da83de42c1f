"""Trainings that other code left unfinished: found by what they share, gone on with by name."""

import dataclasses
import os

import pytest

from sonoray.errors import ConfigError
from sonoray.stages import Stage, StageOutput
from sonoray.tracking.run_id import RUN_ID_FILE
from sonoray.workspace import Workspace
from sonoray_jobs.training.unfinished import (
    LOCK,
    check_resumable,
    clear_working_folder,
    find_unfinished,
    record_of,
    write_record,
)

STAGE = Stage(
    name="train-phantom",
    config={"train": {"seed": 0}, "model": {}},
    inputs=["made by some code"],
    code=["sonoray.study.prompt"],
)


def inputs(**files):
    held = {"dataset": {"studies/a": "1"}, "clip": {"weights": "2"}} | files
    return {
        name: StageOutput(path=None, manifest={"files": digests}, reused=True)
        for name, digests in held.items()
    }


def begin(workspace, name, record, *, checkpoint=True, at=0):
    folder = workspace.runs / name
    (folder / "checkpoint_1" if checkpoint else folder).mkdir(parents=True)
    write_record(folder, record)
    os.utime(folder, (at, at))
    return folder


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace.open(tmp_path)


def test_other_code_and_equal_inputs_of_other_code_are_the_same_record():
    record = record_of(STAGE, inputs())
    other = dataclasses.replace(STAGE, code=["sonoray.study.splits"], inputs=["made by other code"])
    resumed = dataclasses.replace(STAGE, config={**STAGE.config, "resumed": "phantom-1"})
    assert record_of(other, inputs()) == record_of(resumed, inputs()) == record


@pytest.mark.parametrize(
    ("config", "files"),
    [({"train": {"seed": 1}}, {}), ({}, {"dataset": {}}), ({}, {"clip": {"weights": "3"}})],
)
def test_another_configuration_or_other_inputs_are_another_record(config, files):
    other = dataclasses.replace(STAGE, config={**STAGE.config, **config})
    assert record_of(other, inputs(**files)) != record_of(STAGE, inputs())


def test_those_with_a_checkpoint_are_found_the_newest_last(workspace):
    record = record_of(STAGE, inputs())
    begin(workspace, "phantom-new", record, at=2)
    begin(workspace, "phantom-old", record, at=1)
    begin(workspace, "phantom-none", record, checkpoint=False)
    begin(workspace, "phantom-other", record | {"inputs": "0"})
    assert find_unfinished(workspace, record) == ["phantom-old", "phantom-new"]
    check_resumable(workspace, "phantom-old", record)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("phantom-9", "no unfinished training with a checkpoint .*: phantom-1"),
        ("phantom-none", "no unfinished training with a checkpoint"),
        ("phantom-data", "was begun with another data"),
        ("phantom-config", "was begun with another configuration .*: phantom-1"),
    ],
)
def test_what_cannot_be_gone_on_with_is_refused(workspace, name, message):
    record = record_of(STAGE, inputs())
    begin(workspace, "phantom-1", record)
    begin(workspace, "phantom-none", record, checkpoint=False)
    begin(workspace, "phantom-data", record | {"inputs": "0"})
    begin(workspace, "phantom-config", record | {"configuration": "0"})
    with pytest.raises(ConfigError, match=message):
        check_resumable(workspace, name, record)


def test_a_finished_training_leaves_its_mlflow_run_alone(workspace):
    record = record_of(STAGE, inputs())
    folder = begin(workspace, "phantom-1", record)
    for name in ("mlflow_run_id", ".lock", "checkpoint_manager_snapshot.json"):
        (folder / name).touch()
    clear_working_folder(folder)
    assert {path.name for path in folder.iterdir()} == {"mlflow_run_id", ".lock"}
    assert find_unfinished(workspace, record) == []


@pytest.mark.parametrize("keep_run", [True, False])
def test_a_cleared_folder_keeps_its_lock_and_where_it_may_its_run(workspace, keep_run):
    folder = begin(workspace, "phantom-done", record_of(STAGE, inputs()))
    (folder / LOCK).touch()
    (folder / RUN_ID_FILE).write_text("0123")
    clear_working_folder(folder, keep_run=keep_run)
    kept = {path.name for path in folder.iterdir()}
    assert kept == ({LOCK, RUN_ID_FILE} if keep_run else {LOCK})
