"""Kills parts of an embed job at random moments and compares the store with an undisturbed one.

`python bench/data/embed_faults.py [--kills 20] [--seed 0] [--images 200]`

The cluster is real and has two nodes, two raylets on this machine with two logical CPUs each; the
driver is a process of its own on the first. What dies by SIGKILL, in turn: the driver, an actor of
a tower, the raylet of the second node, with which its workers and its objects go (another node
takes its place before the next job). The moment is drawn: after so many committed batches, and a
part of a batch's time later.

After each kill the job is run again, whether it ended well by itself (an actor's or a node's death
must not end it, as what is left holds the job) or not (a dead driver). Then must hold

- the store has the batches of the undisturbed job, byte by byte: nothing missing, nothing more;
- no batch was begun twice that had been committed: each actor that died, or whose driver died, had
  one batch in its hands, and no more than these were begun again;
- where the job had ended well, the rerun computed nothing.

The first that does not hold ends the run with its message.
"""

import argparse
import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from material import phantom_dataset, random_towers
from record import RESULTS, machine, write_result

from sonoray.cluster.scratch import scratch_folder
from sonoray.stages import StageOutput, file_digests
from sonoray.workspace import Workspace
from sonoray_jobs.outputs.stores import TOWERS
from sonoray_jobs.road.config import RoadConfig, load_road

if TYPE_CHECKING:
    from ray._private.node import Node
    from ray.cluster_utils import Cluster

JOB = Path(__file__).with_name("fault_job.py")
KINDS = ("driver", "actor", "raylet")
NODE = {"num_cpus": 2, "object_store_memory": 150 * 1024**2, "include_dashboard": False}
PATIENCE_S = 600.0
"""A job of seconds that has not ended by then hangs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kill:
    """One kill and what came of it."""

    kind: str
    after_batches: int
    """Batches that were committed when it was drawn to happen."""
    delay_s: float
    """And so much later."""
    went_on: bool
    """Whether the job ended well by itself."""
    repeated: int
    """Batches that were begun a second time, by the job or its rerun."""
    recomputed: int
    """Features that the rerun computed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """What is embedded, where, and what must come out."""

    cluster: "Cluster"
    root: Path
    home: Workspace
    dataset: StageOutput

    def start(self, name: str) -> "subprocess.Popen[str]":
        """Start a job, or its rerun, that writes into the workspace `name`."""
        (self.root / name).mkdir(exist_ok=True)
        places = (self.home.root, self.dataset.path, self.root / name, self.log(name))
        return subprocess.Popen(
            [sys.executable, JOB, *map(str, places)],
            env=os.environ | {"RAY_ADDRESS": self.cluster.address},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def log(self, name: str) -> Path:
        """Where the job notes the batches that it begins."""
        return self.root / f"{name}.log"

    def batches(self, name: str) -> dict[str, str]:
        """Committed batches by tower and name: their digests."""
        digests = file_digests(self.root / name / "features")
        return {path: digest for path, digest in digests.items() if path.endswith(".arrow")}

    def num_batches(self, name: str) -> int:
        """How many were committed so far."""
        return sum(1 for _ in (self.root / name / "features").glob("*/batch-*.arrow"))

    def begun(self, name: str) -> Counter[str]:
        """How often each batch was begun."""
        return Counter(self.log(name).read_text(encoding="ascii").splitlines())


def main() -> None:
    """Run all kills and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--batch", type=int, default=4, help="images of a batch, which is a file")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    start = time.perf_counter()
    described = machine()
    # two actors: what one node has left holds both, and two nodes spread them
    sizes = {"batch_size": given.batch, "images_per_file": given.batch}
    room = {"actors": 2, "actor_cpus": 1}
    road = load_road("tiny", [f"embed.{name}={value}" for name, value in (sizes | room).items()])
    with scratch_folder(Path("/tmp")) as scratch, two_nodes(scratch) as cluster:
        bench = prepare(cluster, scratch, road, given.images)
        expected, seconds = run_undisturbed(bench)
        generator = np.random.default_rng(given.seed)
        kills: list[Kill] = []
        while len(kills) < given.kills:
            kind = given.kinds[len(kills) % len(given.kinds)]
            after = int(generator.integers(0, len(expected)))
            delay_s = float(generator.uniform(0, seconds / len(expected)))
            kill = disturb(bench, kind, after, delay_s, generator.random(), expected)
            if kill is not None:  # else the job had ended before
                kills.append(kill)
                print(f"{len(kills)}: {kill}", file=sys.stderr)
    result = {
        "asked": {name: getattr(given, name) for name in ("kills", "kinds", "seed", "images")},
        "machine": described,
        "batches": len(expected),
        "kills": [asdict(kill) for kill in kills],
        "summary": summarise(kills),
        "took_s": time.perf_counter() - start,
    }
    write_result(given.results, "embed_faults", result)


@contextlib.contextmanager
def two_nodes(scratch: Path, head: dict[str, Any] = NODE) -> Iterator["Cluster"]:
    """Give the block a cluster of its own with two raylets; Ray's files lie in `scratch`."""
    os.environ |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_TMPDIR": str(scratch),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    os.environ.pop("RAY_ADDRESS", None)
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        cluster.add_node(**NODE)
        yield cluster
    finally:
        cluster.shutdown()


def prepare(cluster: "Cluster", scratch: Path, road: RoadConfig, num_images: int) -> Bench:
    """Make images and towers."""
    home = Workspace.open(scratch / "home")
    (home.root / "road.json").write_text(road.model_dump_json())
    random_towers(home, road)
    dataset = phantom_dataset(home, num_images, seed=0)
    return Bench(cluster=cluster, root=scratch, home=home, dataset=dataset)


def run_undisturbed(bench: Bench) -> tuple[dict[str, str], float]:
    """Return the batches of a job that nothing disturbs, and how long it took to commit them."""
    finish(bench.start("whole"))
    assert set(bench.begun("whole").values()) == {1}, bench.begun("whole")
    times = [p.stat().st_mtime for p in (bench.root / "whole").rglob("batch-*.arrow")]
    return bench.batches("whole"), max(times) - min(times)


def disturb(
    bench: Bench, kind: str, after: int, delay_s: float, which: float, expected: dict[str, str]
) -> Kill | None:
    """Kill once, run again, check; None where the job ended before its time had come.

    `which`, in [0, 1), picks one of the actors.
    """
    name = f"{kind}-{secrets.token_hex(4)}"
    job = bench.start(name)
    ends = time.monotonic() + PATIENCE_S
    while bench.num_batches(name) < after and job.poll() is None:
        assert time.monotonic() < ends, f"{kind}: {after} batches did not come; {name} hangs"
        time.sleep(0.005)
    time.sleep(delay_s)
    if job.poll() is not None or not send_kill(bench, kind, which, job):
        finish(job)
        shutil.rmtree(bench.root / name)
        return None
    went_on = kind != "driver"
    finish(job, expected_code=0 if went_on else -signal.SIGKILL)
    if kind == "raylet":
        replace_node(bench.cluster)
    recomputed = sum(finish(bench.start(name))["num_computed"].values())
    assert bench.batches(name) == expected, f"{kind}: the store is another one"
    repeated = sum(times - 1 for times in bench.begun(name).values())
    # the actors that may have died with a batch in their hands
    most = 1 if kind == "actor" else len(TOWERS)
    assert repeated <= most, f"{kind}: {repeated} batches were begun twice, at most {most} may"
    assert not (went_on and recomputed), f"{kind}: the rerun computed {recomputed} features"
    shutil.rmtree(bench.root / name)
    return Kill(
        kind=kind,
        after_batches=after,
        delay_s=round(delay_s, 4),
        went_on=went_on,
        repeated=repeated,
        recomputed=recomputed,
    )


def send_kill(bench: Bench, kind: str, which: float, job: "subprocess.Popen[str]") -> bool:
    """Send SIGKILL; False where there is nothing to kill any more, or not yet."""
    if kind == "driver":
        job.kill()
        return True
    if kind == "raylet":
        (node,) = bench.cluster.worker_nodes
        os.kill(raylet_pid(node), signal.SIGKILL)
        return True
    table = bench.cluster.global_state.actor_table(None, None, "ALIVE")
    actors = sorted(a["Pid"] for a in table.values() if "MapWorker" in a["ActorClassName"])
    if actors:
        os.kill(actors[int(which * len(actors))], signal.SIGKILL)
    return bool(actors)


def raylet_pid(node: "Node") -> int:
    """Process id of a node's raylet."""
    pid: int = node.all_processes["raylet"][0].process.pid
    return pid


def replace_node(cluster: "Cluster") -> None:
    """Clear away the node whose raylet died and start another one."""
    (node,) = cluster.worker_nodes
    cluster.remove_node(node, allow_graceful=False)
    cluster.add_node(**NODE)


def finish(job: "subprocess.Popen[str]", *, expected_code: int = 0) -> dict[str, Any]:
    """Wait for a job and return what it printed."""
    try:
        printed, errors = job.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        job.kill()
        raise
    assert job.returncode == expected_code, f"exit code {job.returncode}\n{errors}"
    if expected_code:
        return {}
    result: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return result


def summarise(kills: list[Kill]) -> dict[str, Any]:
    """By kind: how many, how many the job survived, batches begun twice and computed anew."""
    return {
        kind: {
            "kills": len(of_kind),
            "went_on": sum(kill.went_on for kill in of_kind),
            "repeated": sum(kill.repeated for kill in of_kind),
            "recomputed": sum(kill.recomputed for kill in of_kind),
        }
        for kind in KINDS
        if (of_kind := [kill for kill in kills if kill.kind == kind])
    }


if __name__ == "__main__":
    main()
