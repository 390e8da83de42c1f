"""The checkpoints of a training: complete or not there, whole or refused; in folders and on S3."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sonoray.errors import CheckpointError
from sonoray_jobs.training.saving.checkpoint_store import CheckpointStore
from sonoray_jobs.training.saving.position import POSITION, Position
from sonoray_jobs.training.saving.saver import OPTIMIZER, WEIGHTS, Saver, checkpoint_files

WRITER = """
import sys
from sonoray_jobs.training.saving.checkpoint_store import CheckpointStore
from sonoray_jobs.training.saving.position import Position

store = CheckpointStore(sys.argv[1])
for step, size in ((1, 10), (2, 2_000_000_000)):
    store.write(Position(stage=0, epochs=0, steps=step, digests={}), {"weights": bytes(size)})
    print(step, flush=True)
"""

CROWDED = """
import resource
import sys
import torch
from sonoray_jobs.training.saving.checkpoint_store import CheckpointStore
from sonoray_jobs.training.saving.position import Position
from sonoray_jobs.training.saving.saver import Saver

store = CheckpointStore(sys.argv[1])
saver = Saver(store=store, keep=2, keep_best=False, say=lambda line: print(line, flush=True))
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))  # as a disk that is full does
for step, size in ((1, 10), (2, 10_000), (3, 10_000)):
    position = Position(stage=0, epochs=0, steps=step, digests={})
    saver.save(position, {"w": torch.zeros(size)}, {})
saver.wait()
print(saver.store.names(), flush=True)
saver.close()
"""


def at(step: int, **values: object) -> Position:
    return Position.model_validate({"stage": 0, "epochs": 0, "steps": step, "digests": {}} | values)


def write(store: CheckpointStore, step: int, **values: object) -> str:
    weights = {"w": torch.full((3,), float(step))}
    return store.write(at(step, **values), checkpoint_files(weights, {}))


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> CheckpointStore:
    if request.param == "folder":
        return CheckpointStore(str(tmp_path / "run"))
    return CheckpointStore(request.getfixturevalue("prefix").uri)


def test_what_is_written_comes_back_the_newest_last(store, tmp_path):
    assert store.names() == []
    assert store.newest(pytest.fail) is None
    for step in (9, 10, 11):
        name = write(store, step, epochs=step // 10)
    assert store.names() == [f"checkpoint_00_{step:08}" for step in (9, 10, 11)]
    assert store.newest(pytest.fail) == name
    assert store.read_position(name).epochs == 1
    folder = store.fetch(name, tmp_path)
    assert torch.equal(load_file(folder / WEIGHTS)["w"], torch.full((3,), 11.0))
    assert load_file(folder / OPTIMIZER) == {}
    later = write(store, 1, stage=1)
    assert store.newest(pytest.fail) == later  # a stage comes after all steps of the one before


def test_the_newest_stay_and_the_best_one_of_the_stage(store):
    for step, loss in ((1, 3.0), (2, 1.0), (3, 1.0), (4, None), (5, 2.0), (6, 4.0)):
        write(store, step, validation_loss=loss)
    write(store, 7, stage=1, validation_loss=0.5)
    assert store.best(0) == "checkpoint_00_00000002"
    assert store.best(1) == "checkpoint_01_00000007"
    assert store.best(2) is None
    store.prune(2, protect=store.best(0))
    assert store.names() == [
        "checkpoint_00_00000002",
        "checkpoint_00_00000006",
        "checkpoint_01_00000007",
    ]


def change(folder: Path, how: str) -> None:
    if how == "truncated":
        file = folder / WEIGHTS
        file.write_bytes(file.read_bytes()[:-1])
    elif how == "tampered":
        file = folder / OPTIMIZER
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    elif how == "missing":
        (folder / WEIGHTS).unlink()
    elif how == "half a mark":
        file = folder / POSITION
        file.write_text(file.read_text()[:40])
    else:  # a mark that says something else
        file = folder / POSITION
        file.write_text(json.dumps(json.loads(file.read_text()) | {"steps": 7}))


@pytest.mark.parametrize("how", ["truncated", "tampered", "missing", "half a mark", "another mark"])
def test_a_checkpoint_that_is_not_what_was_written_is_refused_and_the_one_before_used(
    how, tmp_path
):
    store = CheckpointStore(str(tmp_path))
    before, damaged = write(store, 1), write(store, 2)
    change(tmp_path / damaged, how)
    with pytest.raises(CheckpointError):
        store.verify(damaged)
    said: list[str] = []
    assert store.newest(said.append) == before
    (line,) = said
    assert line.startswith(f"checkpoint {damaged} is refused and removed, {before} is used: ")
    assert store.names() == [before]
    change(tmp_path / before, how)
    assert store.newest(said.append) is None
    assert " is refused and removed, anew: " in said[-1]


def test_a_writer_that_is_killed_leaves_the_checkpoint_before_and_what_is_swept(tmp_path):
    store = CheckpointStore(str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)]) as writer:
        deadline = time.monotonic() + 120
        while not (tmp_path / "checkpoint_00_00000002").exists():
            assert time.monotonic() < deadline
            assert writer.poll() is None
            time.sleep(0.001)
        writer.kill()
        assert writer.wait() == -signal.SIGKILL
    assert store.names() == ["checkpoint_00_00000001"]
    assert store.sweep() == ["checkpoint_00_00000002"]
    assert store.sweep() == []
    assert store.newest(pytest.fail) == "checkpoint_00_00000001"


def test_a_full_disk_is_said_and_the_checkpoint_before_stays(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", CROWDED, str(tmp_path)], capture_output=True, text=True, check=False
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stderr
    for step, line in zip((2, 3), lines, strict=False):
        assert line == (
            f"the checkpoint of step {step} of stage 0 could not be saved in {tmp_path} (File too "
            "large), checkpoint_00_00000001 is the newest one; make room there; the training goes "
            "on"
        )
    assert lines[-1] == "['checkpoint_00_00000001']"
    # the last one is missing: whoever waits for it hears of it
    assert "CheckpointError: the checkpoint of step 3 of stage 0 could not be saved" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint_00_00000001"]


def test_a_saver_keeps_the_newest_and_writes_while_others_go_on(tmp_path):
    store = CheckpointStore(str(tmp_path))
    saver = Saver(store=store, keep=1, keep_best=True, say=pytest.fail)
    for step, loss in ((1, 1.0), (2, 2.0), (3, 3.0)):
        saver.save(
            at(step, validation_loss=loss), {"w": torch.ones(3)}, {"w|exp_avg": torch.ones(3)}
        )
    saver.close()
    assert store.names() == ["checkpoint_00_00000001", "checkpoint_00_00000003"]
