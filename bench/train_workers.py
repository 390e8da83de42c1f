"""Steps a second of a training with one worker, with two, and of one process without Ray.

Run: `python bench/train_workers.py --workspace FOLDER [--rounds 3] [--epochs 4] [--results FOLDER]`

The workspace is that of a finished tiny road (`make demo`); it is copied, not changed. In turn, the
instruct stage of `tiny`, 16 studies a step and three questions of each, is trained by one worker
with Ray and the driver on one core, by one worker beside which they have the second core, by two
workers with both cores, and by a plain loop in one process that uses both (`bench/train/case.py`:
the same model and as large batches; forward, backward, clipping, AdamW). A training's rate is the
median over its epochs after the first, reports, checkpoints and logging included; Ray's start and
the first epoch are left out. Nothing else may run on the machine.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bench" / "data"))
CORES = 2
WAYS = {
    "one worker, one core": (1, 1),
    "one worker, two cores": (1, CORES),
    "two workers, two cores": (2, CORES),
}
"""By name: workers, and the cores that they, Ray and the driver have together."""
STEPS = 12
"""Steps of the plain loop, the first of which is not counted."""


def main() -> None:
    """Measure, print and keep."""
    from record import RESULTS, machine, spread, write_result

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", type=Path, required=True, help="of a finished tiny road")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    begin = time.perf_counter()
    names = (*WAYS, "plain loop, two cores")
    rates: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder) / "workspace"
        shutil.copytree(given.workspace, workspace)
        for number in range(given.rounds):
            for place, (name, (workers, cores)) in enumerate(WAYS.items()):
                seed = 1000 + 10 * number + place  # another training, not the same one again
                with only_cores(cores):
                    rates[name].append(train_rate(workspace, workers, given.epochs, seed))
            rates[names[-1]].append(loop_rate(workspace, Path(folder) / f"batches-{number}"))
            print(json.dumps({name: round(each[-1], 3) for name, each in rates.items()}))
    ratios = {
        "two workers on two cores over one on one": (names[2], names[0]),
        "two workers over one that has Ray beside it": (names[2], names[1]),
        "plain loop's step over two workers'": (names[2], names[3]),
    }
    result: dict[str, Any] = {
        "asked": {"rounds": given.rounds, "epochs": given.epochs},
        "machine": machine(),
        "steps_per_s": {name: spread(each) for name, each in rates.items()},
        "ratios": {
            name: spread([a / b for a, b in zip(rates[first], rates[second], strict=True)])
            for name, (first, second) in ratios.items()
        },
        "took_s": time.perf_counter() - begin,
    }
    print(json.dumps(result["ratios"]))
    write_result(given.results, "train_workers", result)


@contextmanager
def only_cores(number: int) -> Iterator[None]:
    """Inside the block, processes that are started have the first so many cores of the machine."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:number])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def train_rate(workspace: Path, workers: int, epochs: int, seed: int) -> float:
    """Steps a second of a training on so many workers."""
    from sonoray.cluster.session import ray_session
    from sonoray.tracking.connection import open_store
    from sonoray.workspace import Workspace
    from sonoray_jobs.road.config import load_road
    from sonoray_jobs.training import train
    from sonoray_jobs.training.checkpoint import read_position

    instruct = {"name": "instruct", "epochs": epochs, "learning_rate": 2e-3, "lora": True}
    road = load_road("tiny")
    settings = road.train.model_dump() | {
        "stages": [instruct],
        "num_workers": workers,
        "seed": seed,
    }
    road = type(road).model_validate(road.model_dump() | {"train": settings})
    opened = Workspace.open(workspace)
    with ray_session():
        trained = train.run(workspace=opened, road=road, dataset="phantom")
    history = open_store(opened).client.get_metric_history(trained.run_id, "epoch_s")
    steps = read_position(trained.checkpoint).steps_per_epoch
    return steps / statistics.median(each.value for each in history[1:])


def loop_rate(workspace: Path, folder: Path) -> float:
    """Steps a second of the plain loop on the same studies and features."""
    sys.path.insert(0, str(ROOT / "bench"))
    from train_step import write_real

    (language,) = workspace.glob("stages/bootstrap-language-*")
    write_real(folder, workspace, language, STEPS)
    command = [sys.executable, ROOT / "bench/train/case.py", "evidence", "--input", folder]
    done = subprocess.run(
        [*map(str, command), "--language", str(language), "--threads", str(CORES)],
        env={**os.environ, "OMP_NUM_THREADS": str(CORES), "TOKENIZERS_PARALLELISM": "false"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    walls = json.loads(done.stdout.splitlines()[-1])["wall_s"]
    return 1 / statistics.median(walls[1:])


if __name__ == "__main__":
    main()
