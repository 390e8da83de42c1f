"""The training stream beside simpler ways to load the same steps: what each costs a training.

Run: `.venv/bin/python bench/training_stream.py [--studies 256] [--steps 64] [--rounds 3]
[--workers 2] [--step-ms 100]`.

A worker takes steps of the tiny road's shape (8 studies of 3 images, 36 tokens, three turns each)
and computes on each what a training step does to the interpreter and the cores: some two thousand
small tensor operations, forward and backward, for about `--step-ms` where it is alone. As many
workers as `--workers` run at once, each in a Ray actor, as in a training. Every way loads the same
steps of the same plan through the same `StepLoader`, and the features of each step are compared by
their sums. Ways:

- `memory`: every row was loaded before the clock starts; what the steps alone take;
- `stream`: the training stream itself, `sonoray_jobs.training.stream`;
- `iterator`: the same dataset without `streaming_split`: Ray Data's loop is a thread of the worker;
- `thread`: one thread of the worker loads two rows ahead, no Ray;
- `inline`: the worker loads when it needs.

Ways go in turn within a round, and a round's times are divided by those of `memory`: wall time, and
CPU time of all processes of the run, which other work on the machine disturbs less. The clock
starts with the first step in hand. Also printed: the bytes a study that driver and loader hold, of
`--index` synthetic studies (tracemalloc and Arrow's pool).
"""

import argparse
import hashlib
import os
import queue
import statistics
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa

from sonoray.features.store import FeatureStore
from sonoray.metrics.tables import Table
from sonoray.study.contract import Study, StudyImage, Turn, write_studies
from sonoray.study.sample_order import Plan
from sonoray.study.study_index import StudyReader, index_studies
from sonoray_jobs.towers.feature_source import FeatureSource
from sonoray_jobs.training.step_loader import LoadedStep, StepLoader, StepSource, unpack_steps

STUDIES_PER_STEP, IMAGES, TOKENS, TURNS = 8, 3, 36, 8
CHANNELS = {"clip": 96, "sam": 128}
OPERATIONS = 2000
REPORT = "甲状腺左叶见一低回声结节，大小约12mm，边界清晰，形态规则，内部回声均匀。"


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What one worker saw."""

    seconds: float
    cpu_s: float
    """Of all processes below the script's, loaders and Ray's own among them."""
    check: float
    """Sum over all features."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=256)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--step-ms", type=float, default=100)
    parser.add_argument("--index", type=int, default=50_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        hold_index(Path(folder) / "index", given.index)
        dataset = Path(folder) / "dataset"
        source = make_source(dataset, given.studies, given.steps)
        measure_ways(source, given)


def measure_ways(source: StepSource, given: argparse.Namespace) -> None:
    """Every way in turn, `--rounds` times."""
    import ray

    from sonoray.cluster.session import ray_session

    runs: dict[str, list[Run]] = {way: [] for way in WAYS}
    with ray_session(num_cpus=2 * given.workers):
        size = ray.get(ray.remote(num_cpus=1)(calibrate).remote(given.step_ms))
        worker = ray.remote(num_cpus=0.5)(train)
        for number in range(given.rounds):
            for way, made in runs.items():
                several = [
                    worker.remote(way, source, size, os.getpid()) for _ in range(given.workers)
                ]
                found = ray.get(several)
                assert len({run.check for run in found}) == 1
                made.append(max(found, key=lambda run: run.seconds))
                print(f"round {number}: {way} {made[-1].seconds:.1f} s", file=sys.stderr)
    rows = []
    for way, made in runs.items():
        row = [way]
        for field in ("seconds", "cpu_s"):
            values = [getattr(run, field) for run in made]
            bases = [getattr(run, field) for run in runs["memory"]]
            ratios = [value / base for value, base in zip(values, bases, strict=True)]
            per_step = statistics.median(values) / len(source.plans[0]) * 1e3
            spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
            row += [f"{per_step:.0f}", f"{statistics.median(ratios):.2f} ({spread})"]
        rows.append(tuple(row))
    header = ("way", "ms a step", "over memory", "CPU ms a step of all workers", "over memory")
    print("\n".join(Table(header=header, rows=tuple(rows)).text()))


def train(way: str, source: StepSource, size: int, root: int) -> Run:
    """Go through the steps of a plan."""
    import torch

    torch.set_num_threads(1)
    check, start, cpu_s = 0.0, 0.0, 0.0
    for step in WAYS[way](source):
        if not start:
            start, cpu_s = time.perf_counter(), cpu_seconds(root)
        check += float(sum(study.clip.astype(np.float64).sum() for study in step.features))
        compute(size)
    return Run(
        seconds=time.perf_counter() - start,
        cpu_s=cpu_seconds(root) - cpu_s,
        check=check,
    )


def cpu_seconds(root: int) -> float:
    """CPU seconds of a process and all that descend from it, those that ended included."""
    parents, ticks = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it just ended
            continue
        pid = int(stat.parent.name)
        parents[pid] = int(fields[1])
        ticks[pid] = sum(map(int, fields[11:15]))
    total = 0
    for pid, used in ticks.items():
        above = pid
        while above not in (root, 0, 1):
            above = parents.get(above, 0)
        total += used if above == root else 0
    return total / os.sysconf("SC_CLK_TCK")


def compute(size: int) -> None:
    """A step's worth of small operations, forward and backward."""
    import torch

    weight = torch.full((size, size), 1e-3, requires_grad=True)
    value = torch.ones((8, size))
    for _ in range(OPERATIONS // 4):
        value = torch.tanh(value @ weight)
    value.sum().backward()


def calibrate(step_ms: float) -> int:
    """Width at which `compute` takes about `step_ms` alone."""
    import torch

    torch.set_num_threads(1)
    for size in range(32, 1024, 16):
        start = time.perf_counter()
        compute(size)
        if time.perf_counter() - start > step_ms / 1e3:
            return size
    return 1024


def in_memory(source: StepSource) -> Iterator[LoadedStep]:
    """Load everything first."""
    load = StepLoader(source)
    rows = [load(row) for row in source.rows()]
    return chain.from_iterable(unpack_steps(source, row) for row in rows)


def inline(source: StepSource) -> Iterator[LoadedStep]:
    """Load a row when it is needed."""
    load = StepLoader(source)
    for row in source.rows():
        yield from unpack_steps(source, load(row))


def threaded(source: StepSource) -> Iterator[LoadedStep]:
    """Load two rows ahead in a thread."""
    load = StepLoader(source)
    ready: queue.Queue = queue.Queue(maxsize=2)

    def fill() -> None:
        for row in source.rows():
            ready.put(load(row))
        ready.put(None)

    threading.Thread(target=fill, daemon=True).start()
    while (row := ready.get()) is not None:
        yield from unpack_steps(source, row)


def streamed(source: StepSource) -> Iterator[LoadedStep]:
    """The training stream."""
    from sonoray_jobs.training.stream import LoaderRoom, iter_loaded_steps

    return iter_loaded_steps(source, LoaderRoom(num_cpus=0))


def iterated(source: StepSource) -> Iterator[LoadedStep]:
    """Its dataset, with Ray Data's loop in the worker."""
    from sonoray_jobs.training.stream import LoaderRoom, loaded_rows

    for row in loaded_rows(source, LoaderRoom(num_cpus=0)).iter_rows():
        yield from unpack_steps(source, row)


WAYS = {
    "memory": in_memory,
    "stream": streamed,
    "iterator": iterated,
    "thread": threaded,
    "inline": inline,
}


def make_source(dataset: Path, num_studies: int, num_steps: int) -> StepSource:
    """Studies and their features, and a plan of about so many steps."""
    write_dataset(dataset, num_studies)
    stores = {}
    for tower, channels in CHANNELS.items():
        store = stores[tower] = FeatureStore(dataset / "features", tower, TOKENS, channels)
        values = np.random.default_rng(0).standard_normal((64, TOKENS, channels))
        ids = [image_id(number, place) for number in range(num_studies) for place in range(IMAGES)]
        for start in range(0, len(ids), 64):
            batch = ids[start : start + 64]
            store.write(batch, values[: len(batch)])
    index = index_studies(dataset, split="train", only={})
    epochs = range(max(1, num_steps * STUDIES_PER_STEP // num_studies))
    plan = Plan(
        num_studies=len(index),
        seed=0,
        studies_per_step=STUDIES_PER_STEP,
        epochs=epochs,
        rank=0,
        num_ranks=1,
    )
    return StepSource(
        features=FeatureSource(dataset=dataset, stores=stores),
        index=index,
        plans=(plan,),
        turns_per_epoch=3,
        site_cue=True,
    )


def write_dataset(dataset: Path, num_studies: int) -> None:
    """Synthetic training studies of eight turns."""
    dataset.mkdir()
    studies = [
        Study(
            study_id=digest("study", number),
            patient_key=digest("patient", number),
            split="train",
            dataset="bench",
            images=tuple(
                StudyImage(image_id=image_id(number, place), uri="", width=224, height=224)
                for place in range(IMAGES)
            ),
            turns=tuple(
                Turn(question=f"第{turn}个问题：请描述超声所见。", answer=f"{REPORT}{number}")
                for turn in range(TURNS)
            ),
            labels={"site": "甲状腺"},
        )
        for number in range(num_studies)
    ]
    write_studies(dataset, studies)


def hold_index(dataset: Path, num_studies: int) -> None:
    """Print what an index and a reader of it hold."""
    write_dataset(dataset, num_studies)
    tracemalloc.start()
    pool = pa.total_allocated_bytes()
    index = index_studies(dataset, split="train", only={})
    held = tracemalloc.get_traced_memory()[0] + pa.total_allocated_bytes() - pool
    reader = StudyReader(dataset, index)
    order = np.random.default_rng(0).permutation(len(index))[:2000]
    start = time.perf_counter()
    reader.read(order)
    seconds = time.perf_counter() - start
    whole = tracemalloc.get_traced_memory()[0] + pa.total_allocated_bytes() - pool
    tracemalloc.stop()
    print(
        f"{len(index):,} studies: the index holds {held / len(index):.1f} bytes a study, a reader "
        f"{whole / 1e6:.1f} MB with it, at {seconds / len(order) * 1e3:.2f} ms a study at random"
    )


def digest(*parts: object) -> str:
    """An id of the length of real ones."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


image_id = partial(digest, "image")


if __name__ == "__main__":
    main()
