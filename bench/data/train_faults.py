"""Kills parts of one training at random moments and compares it with an undisturbed one.

`python bench/data/train_faults.py [--kills 20] [--seed 0] [--epochs 60]`

The cluster is real and has two nodes, two raylets on this machine; all of the training's workers
run on the second. The driver is a process of its own. What dies by SIGKILL, in turn: a worker in a
step, the worker that writes while a checkpoint is incomplete, the driver, the raylet of the second
node with all that runs there (another node takes its place). The moment is drawn: when the training
has saved again since the kill before, and a part of a second later. A checkpoint is saved at every
second step. A driver that died is started again, as its user would.

The training that survives all of it must end with the checkpoint of the undisturbed one, byte by
byte, with its losses of every epoch, and as one MLflow run. The first that does not hold ends the
run with its message. Also printed: the time from a kill to the next saved checkpoint.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from embed_faults import NODE, raylet_pid, two_nodes
from record import RESULTS, machine, spread, write_result

from llava_ultra.testing import tiny_config
from sonoray.cluster.scratch import scratch_folder
from sonoray.tracking.connection import open_store
from sonoray.workspace import Workspace
from sonoray_jobs.data import ingest
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.towers import bootstrap, embed
from sonoray_jobs.training.saving.checkpoint_store import PREFIX, CheckpointStore
from sonoray_jobs.training.saving.position import POSITION, Position

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

KINDS = ("worker", "saving", "driver", "raylet")
HEAD = NODE | {"num_cpus": 0}
PATIENCE_S = 600.0
"""A training that has not saved again by then hangs."""
DATASET = "phantom"
DRIVER = """
import sys
from pathlib import Path
from sonoray.workspace import Workspace
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.training import train

road = RoadConfig.model_validate_json(sys.argv[2])
train.run(workspace=Workspace.open(Path(sys.argv[1])), road=road, dataset=sys.argv[3])
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kill:
    """One kill and what came of it."""

    kind: str
    after: str
    """The newest checkpoint when it happened."""
    recovered_s: float
    """Until a checkpoint was saved that was not there at the kill."""


@dataclass(kw_only=True, slots=True)
class Training:
    """A training in a workspace of its own, and its driver."""

    cluster: "Cluster"
    workspace: Workspace
    road: RoadConfig
    driver: "subprocess.Popen[str] | None" = None

    def start(self) -> None:
        """Start the driver, or start it again."""
        command = [sys.executable, "-c", DRIVER, self.workspace.root, self.road.model_dump_json()]
        self.driver = subprocess.Popen(
            [*map(str, command), DATASET],
            env=os.environ | {"RAY_ADDRESS": self.cluster.address},
            stderr=subprocess.PIPE,
            text=True,
        )

    def is_over(self) -> bool:
        """Whether the driver ended."""
        assert self.driver is not None
        return self.driver.poll() is not None

    def saved(self) -> list[str]:
        """Names of the complete checkpoints."""
        folder = self.folder()
        return CheckpointStore(str(folder)).names() if folder else []

    def folder(self) -> Path | None:
        """The working folder; None before there is one."""
        return next(iter(self.workspace.runs.glob(f"{DATASET}-*")), None)

    def outcome(self) -> Position:
        """The position of the finished training, with the digests of its files."""
        (path,) = self.workspace.stages.glob(f"train-*/checkpoint/{POSITION}")
        return Position.model_validate_json(path.read_text())

    def losses(self) -> dict[int, float]:
        """By step: the loss of every epoch that MLflow has, of its only run."""
        client = open_store(self.workspace).client
        experiments = [each.experiment_id for each in client.search_experiments()]
        (run,) = client.search_runs(experiments)
        assert run.info.status == "FINISHED", run.info.status
        points = client.get_metric_history(run.info.run_id, "loss")
        found: dict[int, float] = {}
        for point in points:
            assert found.setdefault(point.step, point.value) == point.value, point.step
        return found


def main() -> None:
    """Run all kills and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=60, help="of each of the two stages")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    start = time.perf_counter()
    described = machine()
    road = road_of(given.epochs, given.kills)
    with scratch_folder(Path("/tmp")) as scratch, two_nodes(scratch, HEAD) as cluster:
        whole = prepare(cluster, scratch / "whole", road)
        other = Training(
            cluster=cluster, workspace=copy_of(whole.workspace, scratch / "other"), road=road
        )
        whole.start()
        finish(whole)
        kills = disturb(other, given.kinds, given.kills, np.random.default_rng(given.seed))
        finish(other)
        assert other.outcome() == whole.outcome(), "the outcome is another one"
        assert other.losses() == whole.losses(), "the losses are others"
    recovered = {
        kind: spread([kill.recovered_s for kill in kills if kill.kind == kind])
        for kind in given.kinds
        if any(kill.kind == kind for kill in kills)
    }
    result = {
        "asked": {name: getattr(given, name) for name in ("kills", "kinds", "seed", "epochs")},
        "machine": described,
        "kills": [asdict(kill) for kill in kills],
        "summary": {
            "kills": len(kills),
            "recovered_s": recovered,
        },
        "took_s": time.perf_counter() - start,
    }
    print(result["summary"], file=sys.stderr)
    write_result(given.results, "train_faults", result)


def road_of(epochs: int, kills: int) -> RoadConfig:
    """The smallest road, with dropout and noise, that many kills do not end."""
    model = tiny_config().model_dump()
    model["lora"]["dropout"] = 0.1
    stages = [{"name": "align", "epochs": epochs, "learning_rate": 2e-3}]
    stages.append({"name": "instruct", "epochs": epochs, "learning_rate": 2e-3, "lora": True})
    return RoadConfig.model_validate(
        {
            "phantom": {"num_patients": 12, "image_size": 64, "images": [1, 2]},
            "ingest": {"splits": {"train": 0.6, "validation": 0.15, "test": 0.25}},
            "model": model,
            "bootstrap": {part: {"steps": 2, "batch_size": 4} for part in bootstrap.PARTS},
            "train": {
                "stages": stages,
                "studies_per_step": 3,
                "feature_noise": 0.3,
                "save_every": "2 steps",
                "max_failures": kills,
            },
        }
    )


def prepare(cluster: "Cluster", folder: Path, road: RoadConfig) -> Training:
    """Make what is trained on."""
    workspace = Workspace.open(folder)
    common: dict[str, Any] = {"workspace": workspace, "road": road, "dataset": DATASET}
    os.environ["RAY_ADDRESS"] = cluster.address
    ingest.run(**common)
    bootstrap.run(**common)
    embed.run(**common)
    del os.environ["RAY_ADDRESS"]
    return Training(cluster=cluster, workspace=workspace, road=road)


def copy_of(workspace: Workspace, folder: Path) -> Workspace:
    """A workspace of the same content."""
    shutil.copytree(workspace.root, folder)
    return Workspace.open(folder)


def disturb(
    training: Training, kinds: list[str], num_kills: int, generator: np.random.Generator
) -> list[Kill]:
    """Kill, again and again, as often as the training is not over before."""
    kills: list[Kill] = []
    training.start()
    known: list[str] = []
    for number in range(num_kills):
        kind = kinds[number % len(kinds)]
        wait_until_saved(training, known)
        time.sleep(float(generator.uniform(0, 0.5)))
        if training.is_over():
            break
        known = training.saved()
        killed_at = time.monotonic()
        if not send_kill(training, kind):
            continue
        known = training.saved()  # what was being written may have been written to its end
        wait_until_saved(training, known)
        recovered_s = time.monotonic() - killed_at
        kills.append(Kill(kind=kind, after=known[-1], recovered_s=round(recovered_s, 2)))
        print(f"{len(kills)}: {kills[-1]}", file=sys.stderr)
    return kills


def wait_until_saved(training: Training, known: list[str]) -> None:
    """Wait for a checkpoint that is newer than those, or for the end."""
    wait_for(lambda: new_since(training, known) or training.is_over(), training)


def new_since(training: Training, known: list[str]) -> bool:
    """Whether a checkpoint is there that is newer than those."""
    return max(training.saved(), default="") > max(known, default="")


def send_kill(training: Training, kind: str) -> bool:
    """Send SIGKILL; False where there is nothing to kill."""
    if kind == "driver":
        assert training.driver is not None
        training.driver.kill()
        training.driver.wait()
        training.start()
        return True
    if kind == "raylet":
        (node,) = training.cluster.worker_nodes
        os.kill(raylet_pid(node), signal.SIGKILL)
        training.cluster.remove_node(node, allow_graceful=False)
        training.cluster.add_node(**NODE)
        return True
    workers = worker_pids(training.cluster)
    if not workers:
        return False
    if kind == "saving":
        folder = training.folder()
        assert folder is not None
        wait_for(lambda: is_writing(folder) or training.is_over(), training)
        for pid in workers:  # one of them is writing
            os.kill(pid, signal.SIGKILL)
        return True
    os.kill(workers[0], signal.SIGKILL)
    return True


def worker_pids(cluster: "Cluster") -> list[int]:
    """Process ids of the training's workers."""
    table = cluster.global_state.actor_table(None, None, "ALIVE")
    return sorted(a["Pid"] for a in table.values() if a["ActorClassName"] == "RayTrainWorker")


def is_writing(folder: Path) -> bool:
    """Whether a checkpoint is incomplete at this moment."""
    return any(not (path / POSITION).exists() for path in folder.glob(f"{PREFIX}*"))


def wait_for(condition: Callable[[], bool], training: Training) -> None:
    """Wait until something is so.

    Raises:
        AssertionError: it takes too long.
    """
    ends = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < ends, f"nothing happens in {training.workspace.root}"
        time.sleep(0.0005)


def finish(training: Training) -> None:
    """Wait for the end of a driver, which must end well."""
    assert training.driver is not None
    try:
        _, errors = training.driver.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        training.driver.kill()
        raise
    assert training.driver.returncode == 0, errors


if __name__ == "__main__":
    main()
