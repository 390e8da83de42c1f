"""Trainings that are cut short for real, and go on: what comes out must not show it."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sonoray.errors import ClusterError
from sonoray.tracking.connection import open_store
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation.ablation.variants import with_values
from sonoray_jobs.outputs import find as outputs
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.training import train
from sonoray_jobs.training.checkpoint import read_position
from sonoray_jobs.training.saving.checkpoint_store import CheckpointStore

pytestmark = [pytest.mark.ray, pytest.mark.slow]

DATASET = "phantom"
PATIENCE_S = 600.0

DRIVER = """
import sys
from pathlib import Path
from sonoray.workspace import Workspace
from sonoray_jobs.training import train
from sonoray_jobs.road.config import RoadConfig

road = RoadConfig.model_validate_json(sys.argv[2])
train.run(workspace=Workspace.open(Path(sys.argv[1])), road=road, dataset=sys.argv[3])
"""


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"no {what} after {PATIENCE_S} s"
        time.sleep(0.02)


def registered(workspace: Workspace) -> list[str]:
    """Names of the checkpoints that the only training would go on from, oldest first."""
    for folder in workspace.runs.iterdir() if workspace.runs.exists() else ():
        return CheckpointStore(str(folder)).names()
    return []


def history(workspace: Workspace, run_id: str, metric: str) -> list[tuple[int, float]]:
    client = open_store(workspace).client
    return [(point.step, point.value) for point in client.get_metric_history(run_id, metric)]


def living_workers() -> list[int]:
    """Process ids of this Ray's own training workers."""
    from ray._private.state import actors  # the public API needs the dashboard

    return [
        actor["Pid"]
        for actor in actors().values()
        if actor["ActorClassName"] == "RayTrainWorker" and actor["State"] == "ALIVE"
    ]


def kill_the_driver(workspace: Workspace, road: RoadConfig) -> None:
    """Train in a process of its own and kill that after the first epoch.

    At once: a second later it would have ended. What MLflow lacks by then waits on disk.
    """
    command = [sys.executable, "-c", DRIVER, str(workspace.root), road.model_dump_json(), DATASET]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as driver:
        try:
            wait_for(lambda: registered(workspace) or driver.poll() is not None, "checkpoint")
        finally:
            driver.kill()
        assert driver.wait() == -signal.SIGKILL, driver.stderr.read()
    wait_for(lambda: not living_workers(), "end of the killed driver's workers")


def disturb_workers(workspace: Workspace, road: RoadConfig, ended: threading.Event) -> None:
    """Tell one worker to end, and kill one of those that go on for it; each when more is saved.

    Each time among all workers of a group: with one alone known, the other one of the group that
    was told to end would be taken for a new one.
    """

    def wait(condition: Callable[[], object], what: str) -> None:
        wait_for(lambda: condition() or ended.is_set(), what)
        assert not ended.is_set(), f"the training ended before there was a {what}"

    for number in (signal.SIGTERM, signal.SIGKILL):
        wait(lambda: len(living_workers()) == road.train.num_workers, "group of workers")
        known, before = registered(workspace), living_workers()
        wait(lambda known=known: set(registered(workspace)) - set(known), "checkpoint")
        os.kill(before[0], number)
        wait(lambda before=before: not set(before) & set(living_workers()), "new worker")


def cut_power(workspace: Workspace, elsewhere: Workspace) -> None:
    """Copy what is on disk when the first epoch is done, while the training goes on."""
    wait_for(lambda: registered(workspace), "checkpoint")
    name = registered(workspace)[0]
    (run,) = workspace.runs.iterdir()
    target = elsewhere.runs / run.name
    shutil.copytree(run / name, target / name)
    shutil.copy(run / "training.json", target)
    assert registered(elsewhere) == [name]


def state(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Weights and moments."""
    return load_file(checkpoint / "weights.safetensors") | load_file(
        checkpoint / "optimizer.safetensors"
    )


def test_a_killed_training_ends_with_the_same_bits(finished_road, tmp_path, capsys):
    """First the driver is killed; in the rerun one worker is told to end, and one is killed."""
    road, whole = finished_road.road, finished_road.trained
    workspace = finished_road.copy(tmp_path, "datasets", "stages", "features")
    kill_the_driver(workspace, road)
    ended = threading.Event()
    killer = threading.Thread(target=disturb_workers, args=(workspace, road, ended))
    killer.start()
    try:
        resumed = train.run(workspace=workspace, road=road, dataset=DATASET)
    finally:
        ended.set()
    killer.join()
    said = capsys.readouterr().err
    assert "a worker was told to end: saved at step" in said
    assert said.count("goes on from checkpoint_") == 3

    assert not resumed.reused
    assert resumed.name == whole.name
    expected, found = state(whole.checkpoint), state(resumed.checkpoint)
    assert set(found) == set(expected)
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []
    assert read_position(resumed.checkpoint) == read_position(whole.checkpoint)
    client = open_store(workspace).client
    experiments = [item.experiment_id for item in client.search_experiments()]
    (run,) = client.search_runs(experiments)  # three attempts, one run
    assert run.info.run_id == resumed.run_id
    assert run.info.status == "FINISHED"
    assert run.data.tags["sonoray.failures"] == "1"  # who is told to end has not failed
    reported = history(workspace, resumed.run_id, "loss")
    reference = history(finished_road.workspace, whole.run_id, "loss")
    assert sorted(reported) == sorted(reference)  # none lost, none doubled


def test_one_worker_of_another_version_goes_on_where_two_stopped(
    finished_road, tmp_path, monkeypatch, caplog
):
    """The same global batches, so only the order of summation differs.

    Without dropout, whose masks belong to ranks; with the default losses.
    """
    values = finished_road.road.model_dump()
    values["model"]["lora"]["dropout"] = 0.0
    values["train"]["stages"] = [
        {"name": "instruct", "epochs": 2, "learning_rate": 2e-3, "lora": True}
    ]
    two = RoadConfig.model_validate(values)
    values["train"]["num_workers"] = 1
    one = RoadConfig.model_validate(values)
    workspace = finished_road.copy(tmp_path / "two", "datasets", "stages", "features")
    elsewhere = finished_road.copy(tmp_path / "one", "datasets", "stages", "features")
    cut = threading.Thread(target=cut_power, args=(workspace, elsewhere))
    cut.start()
    whole = train.run(workspace=workspace, road=two, dataset=DATASET)
    cut.join()
    halfway = state(elsewhere.runs / whole.name / registered(elsewhere)[0])
    monkeypatch.setattr("sonoray_jobs.outputs.find.TRAINING_VERSION", 0)
    with pytest.raises(ClusterError):  # it would start anew, and says how not to
        train.run(workspace=elsewhere, road=one, dataset=DATASET, address="127.0.0.1:9")
    assert f"another version left training {whole.name} of this configuration" in caplog.text
    assert f"--set train.resume={whole.name}" in caplog.text
    again = with_values(one, {"train.resume": whole.name})
    resumed = train.run(workspace=elsewhere, road=again, dataset=DATASET)

    assert resumed.name != whole.name
    assert outputs.find_training(elsewhere, again, DATASET).checkpoint == resumed.checkpoint
    assert not list(elsewhere.runs.glob("*/checkpoint_*"))
    told = history(elsewhere, resumed.run_id, "loss")
    reference = history(workspace, whole.run_id, "loss")
    assert told[0] == reference[0]  # of the epoch before: its report may have been lost
    assert len(history(elsewhere, resumed.run_id, "epoch_s")) == 1, "it began anew"
    progress = {"stage", "epochs", "steps", "steps_per_epoch", "skipped", "stopped", "digests"}
    found_at, expected_at = (
        read_position(training.checkpoint).model_dump(include=progress)  # sums round differently
        for training in (resumed, whole)
    )
    assert found_at == expected_at
    expected, found = state(whole.checkpoint), state(resumed.checkpoint)
    assert set(found) == set(expected)
    for name, tensor in found.items():
        # one unit in the last place was measured; an epoch moves weights ten thousand times more
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-7, msg=name)
    moved = expected["fusion.alpha_logit"] - halfway["fusion.alpha_logit"]
    assert moved.abs() > 1e-4
    assert resumed.metrics["answer_loss"] == pytest.approx(whole.metrics["answer_loss"], rel=1e-6)
