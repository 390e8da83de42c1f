"""Ingest with workers: the bytes of the single process, whatever dies on the way."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sonoray.ingest.source_options import SourceOptions
from sonoray.workspace import Workspace
from sonoray_jobs.data import ingest
from sonoray_jobs.evaluation.ablation.variants import with_values
from sonoray_jobs.road.config import RoadConfig

pytestmark = [pytest.mark.ray, pytest.mark.slow]

PATIENCE_S = 300.0
NUM_STUDIES = 40

DRIVER = """
import sys
from pathlib import Path
from sonoray.ingest.source_options import SourceOptions
from sonoray.workspace import Workspace
from sonoray_jobs.data import ingest
from sonoray_jobs.road.config import RoadConfig

ingest.run(
    workspace=Workspace.open(Path(sys.argv[1])),
    road=RoadConfig.model_validate_json(sys.argv[2]),
    dataset="table",
    options=SourceOptions(path=Path(sys.argv[3])),
)
"""

NODES = """
import json, os, signal, sys
from pathlib import Path
from embed_faults import raylet_pid, two_nodes

with two_nodes(Path(sys.argv[1])) as cluster:
    told = {name: os.environ[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_TMPDIR")}
    print(json.dumps(told | {"RAY_ADDRESS": cluster.address}), flush=True)
    sys.stdin.readline()
    (node,) = cluster.worker_nodes
    os.kill(raylet_pid(node), signal.SIGKILL)
    print("killed", flush=True)
    sys.stdin.readline()
"""
BENCH = Path(__file__).resolve().parents[2] / "bench" / "data"


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"no {what} after {PATIENCE_S} s"
        time.sleep(0.002)


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """Studies with copies of each other, broken files and loops."""
    folder = tmp_path_factory.mktemp("source")
    lines = ["study,patient,images,report"]
    for number in range(NUM_STUDIES):
        names = [f"{number}.png", f"{number - number % 2}.png", f"{number}.gif"]
        frames = np.random.default_rng(number).integers(0, 256, (3, 96, 96), np.uint8)
        first, *others = map(Image.fromarray, frames)
        first.save(folder / names[0])
        first.save(folder / names[2], save_all=True, append_images=others)
        if number % 7 == 3:
            (folder / names[0]).write_bytes(b"\x89PNG broken")
        lines.append(f"s{number},p{number // 3},{';'.join(names)},第{number}例未见异常")
    (folder / "studies.csv").write_text("\n".join(lines), encoding="utf-8")
    return folder / "studies.csv"


@pytest.fixture
def bring(table, tmp_path_factory) -> Callable[..., ingest.Ingested]:
    """Ingest the table with so many workers, under one identity key."""

    def run(workers: int, workspace: Workspace | None = None) -> ingest.Ingested:
        home = workspace or new_workspace(tmp_path_factory.mktemp("ws"))
        road = with_values(RoadConfig(), {"ingest.workers": workers})
        options = SourceOptions(path=table)
        return ingest.run(workspace=home, road=road, dataset="table", options=options)

    return run


def new_workspace(folder: Path) -> Workspace:
    workspace = Workspace.open(folder / "ws")
    key = workspace.root / "identity.key"
    key.write_text(bytes(range(32)).hex(), encoding="ascii")
    key.chmod(0o600)
    return workspace


def made(ingested: ingest.Ingested) -> dict:
    return made_at(Path(ingested.path))


def made_at(dataset: Path) -> dict:
    manifest = json.loads((dataset / "manifest.json").read_text(encoding="utf-8"))
    return {name: manifest[name] for name in ("key", "files", "summary")}


@pytest.fixture(scope="module")
def whole(table, tmp_path_factory) -> dict:
    """The dataset of the single process."""
    home = new_workspace(tmp_path_factory.mktemp("whole"))
    options = SourceOptions(path=table)
    done = ingest.run(workspace=home, road=RoadConfig(), dataset="table", options=options)
    assert sum(done.reasons.values()) >= 5
    assert done.images.kept > 50
    return made(done)


@pytest.mark.parametrize("workers", [2, 3, 0])
def test_any_number_of_workers_makes_the_same_bytes(ray_local, bring, whole, tmp_path, workers):
    workspace = new_workspace(tmp_path)
    assert made(bring(workers, workspace)) == whole
    assert not workspace.parts("table").exists()


def test_a_killed_worker_costs_its_batch(ray_local, bring, whole, tmp_path):
    from ray._private.state import actors  # the public API needs the dashboard

    workspace = new_workspace(tmp_path)
    before = {actor["ActorID"] for actor in actors().values()}
    killed: list[int] = []

    def kill_one() -> None:
        wait_for(lambda: list(workspace.parts("table").rglob("*.tried")), "batch")
        living = [
            actor["Pid"]
            for actor in actors().values()
            if actor["ActorID"] not in before
            and "MapWorker" in actor["ActorClassName"]
            and actor["State"] == "ALIVE"
        ]
        os.kill(living[0], signal.SIGKILL)
        killed.append(living[0])

    killer = threading.Thread(target=kill_one)
    killer.start()
    ingested = bring(2, workspace)
    killer.join()
    assert killed
    assert made(ingested) == whole


@pytest.mark.parametrize("after", [0, 2])
def test_a_killed_driver_leaves_parts_and_the_next_run_goes_on(
    ray_local, bring, table, whole, tmp_path, after
):
    workspace = new_workspace(tmp_path)
    folder = workspace.parts("table")

    def parts() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in folder.rglob("part-*.parquet")}

    road = with_values(RoadConfig(), {"ingest.workers": 2})
    command = [sys.executable, "-c", DRIVER, str(workspace.root), road.model_dump_json(), table]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as driver:
        wait_for(
            lambda: len(parts()) >= max(after, 1) or driver.poll() is not None, "finished part"
        )
        driver.send_signal(signal.SIGKILL)
        _, errors = driver.communicate()
    assert driver.returncode == -signal.SIGKILL, errors
    left = parts()
    assert left
    seen: dict[Path, int] = {}

    def watch() -> None:
        while not list(workspace.root.glob("datasets/table.json")):
            for path, written in parts().items():
                seen.setdefault(path, written)
            time.sleep(0.002)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    ingested = bring(2, workspace)
    watcher.join(PATIENCE_S)
    assert made(ingested) == whole
    assert {path: seen.get(path) for path in left} == left  # none was written again
    assert not folder.exists()


def test_a_lost_node_costs_the_batches_of_its_workers(table, whole, tmp_path_factory, tmp_path):
    """A raylet of a cluster of two nodes dies; the job goes on with the workers that are left."""
    workspace = new_workspace(tmp_path)
    scratch = tmp_path_factory.mktemp("nodes")
    os.symlink(scratch, link := Path("/tmp") / f"sonoray-{os.getpid()}")  # sockets need short names
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", NODES, str(link)]
    env["PYTHONPATH"] = str(BENCH)
    with subprocess.Popen(command, env=env, **pipes) as nodes:
        try:
            env |= json.loads(nodes.stdout.readline())
            road = with_values(RoadConfig(), {"ingest.workers": 4})
            asked = [str(workspace.root), road.model_dump_json(), table]
            driver = subprocess.Popen(
                [sys.executable, "-c", DRIVER, *asked], env=env, stderr=subprocess.PIPE, text=True
            )
            wait_for(
                lambda: (
                    list(workspace.parts("table").rglob("*.tried")) or driver.poll() is not None
                ),
                "batch",
            )
            nodes.stdin.write("\n")
            nodes.stdin.flush()
            assert nodes.stdout.readline() == "killed\n"
            assert driver.poll() is None, "it ended before the node did"
            _, errors = driver.communicate(timeout=PATIENCE_S)
        finally:
            nodes.stdin.close()
            link.unlink()
    assert driver.returncode == 0, errors
    assert made_at(workspace.dataset("table").path) == whole
