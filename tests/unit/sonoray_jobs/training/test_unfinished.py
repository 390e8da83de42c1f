"""Trainings that other code left unfinished: found by what they share, gone on with by name."""

import dataclasses
import os

import pytest

from sonoray.errors import ConfigError
from sonoray.stages import Stage, StageOutput
from sonoray.tracking.run_id import RUN_ID_FILE
from sonoray.workspace import Workspace
from sonoray_jobs.training.saving.checkpoint_store import CheckpointStore
from sonoray_jobs.training.saving.position import Position
from sonoray_jobs.training.unfinished import (
    LOCK,
    changed_code,
    check_resumable,
    clear_working_folder,
    find_unfinished,
    kept_record,
    record_of,
    told_where_it_stopped,
    write_record,
)

STAGE = Stage(
    name="train-phantom",
    config={"train": {"seed": 0, "stages": [{"epochs": 4}, {"epochs": 8}]}, "version": 1},
    inputs=["of some content"],
)
CODE = {"sonoray_jobs.training.worker": "1", "llava_ultra.model": "2"}


def inputs(**files):
    held = {"dataset": {"studies/a": "1"}, "clip": {"weights": "2"}} | files
    return {
        name: StageOutput(path=None, manifest={"files": digests}, reused=True)
        for name, digests in held.items()
    }


def begin(workspace, name, record, *, checkpoint=True, at=0):
    folder = workspace.runs / name
    folder.mkdir(parents=True)
    if checkpoint:
        position = Position(stage=0, epochs=0, steps=1, digests={})
        CheckpointStore(str(folder)).write(position, {})
    write_record(folder, record, CODE)
    os.utime(folder, (at, at))
    return folder


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace.open(tmp_path)


def test_another_version_and_what_is_resumed_are_the_same_record():
    record = record_of(STAGE, inputs())
    other = dataclasses.replace(STAGE, config={**STAGE.config, "version": 2}, inputs=["others"])
    resumed = dataclasses.replace(STAGE, config={**STAGE.config, "resumed": "phantom-1"})
    assert record_of(other, inputs()) == record_of(resumed, inputs()) == record


def test_the_modules_that_differ_from_those_of_the_beginning_are_named(workspace):
    folder = begin(workspace, "phantom-1", record_of(STAGE, inputs()))
    assert changed_code(folder, CODE) == []
    now = {"sonoray_jobs.training.worker": "1", "llava_ultra.model": "3", "llava_ultra.new": "4"}
    assert changed_code(folder, now) == ["llava_ultra.model", "llava_ultra.new"]
    assert changed_code(workspace.runs / "phantom-2", now) == []


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
        ("phantom-non", "is the beginning of phantom-none-2, and whole names are wanted"),
        ("phantom-d", "is the beginning of phantom-data, and whole names are wanted"),
        ("phantom-done", "is finished: sonoray evaluate --run phantom-done judges it"),
        ("phantom-data", "was begun with other data or other parts .*: phantom-1"),
        (
            "phantom-config",
            "was begun with other settings: train.seed 0, here 7, train.stages.1.epochs 8, here "
            "9; .*: --allow-changed train.seed --allow-changed train.stages.1.epochs$",
        ),
    ],
)
def test_what_cannot_be_gone_on_with_is_refused(workspace, name, message):
    record = record_of(STAGE, inputs())
    begin(workspace, "phantom-1", record)
    begin(workspace, "phantom-none", record, checkpoint=False)
    begin(workspace, "phantom-data", record | {"inputs": "0"})
    begin(workspace, "phantom-none-2", record | {"inputs": "0"})
    (workspace.stages / "train-phantom-done").mkdir(parents=True)
    if name == "phantom-config":
        begin(workspace, name, record)
    config = {"train": {"seed": 7, "stages": [{"epochs": 4}, {"epochs": 9}]}}
    here = record | {"configuration": config} if name == "phantom-config" else record
    with pytest.raises(ConfigError, match=message):
        check_resumable(workspace, name, here)


def test_a_training_goes_on_with_the_settings_that_may_have_changed(workspace):
    record = record_of(STAGE, inputs())
    begin(workspace, "phantom-1", record)
    here = record | {"configuration": {"train": {"seed": 7, "stages": [{"epochs": 4}]}}}
    check_resumable(workspace, "phantom-1", here, ["train.stages", "train.seed"])
    check_resumable(workspace, "phantom-1", here, ["train"])
    with pytest.raises(ConfigError, match=r"other settings: train.seed 0, here 7; "):
        check_resumable(workspace, "phantom-1", here, ["train.stages"])
    with pytest.raises(ConfigError, match="other settings"):
        check_resumable(workspace, "phantom-1", here, ["train.s"])


def test_a_finished_training_leaves_its_mlflow_run_alone(workspace):
    record = record_of(STAGE, inputs())
    folder = begin(workspace, "phantom-1", record)
    for name in ("mlflow_run_id", ".lock", "snapshot.json"):
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


@pytest.mark.parametrize("saves", [False, True])
def test_settings_that_a_training_was_never_gone_on_with_are_not_kept(tmp_path, saves):
    workspace = Workspace.open(tmp_path)
    record = record_of(STAGE, inputs())
    other = record_of(
        dataclasses.replace(STAGE, config={**STAGE.config, "train": {"seed": 1}}), inputs()
    )
    folder = begin(workspace, "phantom-1", record)
    store = CheckpointStore(str(folder))

    def resume():
        with kept_record(folder, other, CODE, store.names):
            assert find_unfinished(workspace, other) == ["phantom-1"]
            if saves:
                store.write(Position(stage=0, epochs=0, steps=2, digests={}), {})
            raise RuntimeError("a tensor does not fit")

    with pytest.raises(RuntimeError):
        resume()
    assert find_unfinished(workspace, other if saves else record) == ["phantom-1"]
    assert find_unfinished(workspace, record if saves else other) == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(0)])
def test_who_stops_a_training_is_told_where_it_goes_on(tmp_path, caplog, stop):
    store = CheckpointStore(str(tmp_path))
    for steps, where in ((0, "from its start"), (7, "checkpoint_00_00000007")):
        if steps:
            store.write(Position(stage=0, epochs=0, steps=steps, digests={}), {})
        with pytest.raises(KeyboardInterrupt), told_where_it_stopped(store):
            raise stop
        assert "the same command goes on with it" in caplog.messages[-1]
        assert where in caplog.messages[-1]
