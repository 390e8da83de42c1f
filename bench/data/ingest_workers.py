"""Ingest with workers beside the single process: time, bytes, and the driver's memory.

`python bench/data/ingest_workers.py [--studies 300] [--rounds 3] [--workers 2] [--grow 2000 20000]
[--before FOLDER]`

Phantom pictures as the PNGs of a private table, five a study, so that every one is searched for
burned-in text as a hospital's is. Each way runs in a fresh process with its start-up, Ray's too;
they take turns, and every ratio is formed within its round. All datasets are compared: they must be
the same to the byte.

- One process on one core, one process on all cores (which is what `ingest.workers=1` does), and
  Ray with workers, on all cores.
- Another build, where `--before` names the folder of its checkout and environment: both builds'
  commands, `sonoray ingest table`, and the CPU seconds of all their processes.
- Memory: the peak of the driver with workers, for tables of `--grow` studies of one tiny picture.

Nothing else may run on the machine.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from record import RESULTS, machine, peak_bytes, run_child, spread, write_result

from sonoray.ingest.source_options import SourceOptions
from sonoray.phantom import PhantomConfig, plan_study, render_view
from sonoray.workspace import Workspace
from sonoray_jobs.data import ingest
from sonoray_jobs.road.config import load_road

ROOT = Path(__file__).resolve().parents[2]
PICTURES = 5
"""A study."""
TINY_SIDE = 16


def main() -> None:
    """Run all rounds and write the result; `--child` runs one ingest."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--size", type=int, default=384, help="side of a picture, pixels")
    parser.add_argument("--grow", type=int, nargs="*", default=[2_000, 20_000])
    parser.add_argument("--before", type=Path, help="folder of an earlier build")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        table, workers, cores = given.child
        print(json.dumps(ingest_once(Path(table), int(workers), int(cores))))
        return
    start, described = time.perf_counter(), machine()
    with tempfile.TemporaryDirectory(prefix="sonoray-bench-") as scratch:
        folder = Path(scratch)
        table = draw(folder / "source", given.studies, given.size)
        rounds = [measure(table, given.workers) for _ in range(given.rounds)]
        builds = {"now": ROOT} | ({"before": given.before.absolute()} if given.before else {})
        costs = [
            {build: cpu_seconds(table, root) for build, root in builds.items()}
            for _ in range(given.rounds)
        ]
        grown = [grow(folder / str(count), count, given.workers) for count in sorted(given.grow)]
    result = {
        "asked": {
            name: getattr(given, name) for name in ("studies", "rounds", "workers", "size", "grow")
        },
        "machine": described,
        "rounds": rounds,
        "cpu_seconds": costs,
        "grown": grown,
        "summary": summarise(rounds, costs, given.studies * PICTURES),
        "took_s": time.perf_counter() - start,
    }
    write_result(given.results, "ingest_workers", result)


def draw(folder: Path, num_studies: int, size: int) -> Path:
    """Write the phantom's pictures and a table that names them."""
    folder.mkdir()
    settings = PhantomConfig(
        num_patients=num_studies, images=(PICTURES, PICTURES), image_size=size, seed=1
    )
    lines = ["study,patient,images"]
    for number in range(num_studies):
        plan = plan_study(settings, number, 0)
        names = [f"{number}-{view}.png" for view in range(PICTURES)]
        for view, name in enumerate(names):
            Image.fromarray(render_view(settings, plan, view)[0]).save(folder / name)
        lines.append(f"s{number},p{number},{';'.join(names)}")
    return _write_table(folder, lines)


def grow(folder: Path, num_studies: int, workers: int) -> dict[str, Any]:
    """The driver's peak for so many studies of one tiny picture, each another."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    lines = ["study,patient,image"]
    for number in range(num_studies):
        pixels = generator.integers(0, 256, (TINY_SIDE, TINY_SIDE), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        lines.append(f"s{number},p{number},{number}.png")
    child, process_s = _run(_write_table(folder, lines), workers, os.cpu_count() or 1)
    return {"studies": num_studies, "peak_bytes": child["peak_bytes"], "process_s": process_s}


def measure(table: Path, workers: int) -> dict[str, Any]:
    """One round: seconds of each way. Raises `SystemExit` where the datasets differ."""
    cores = os.cpu_count() or 1
    ways = {"one_core": (1, 1), "one_process": (1, cores), "workers": (workers, cores)}
    seconds, made = {}, set()
    for way, asked in ways.items():
        child, seconds[way] = _run(table, *asked)
        made.add(child["made"])
    if len(made) > 1:
        sys.exit("error: the datasets of one round differ")
    return seconds


def cpu_seconds(table: Path, root: Path) -> float:
    """CPU seconds of a build's command, of all its processes together."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory(prefix="sonoray-bench-") as scratch:
        command = [root / ".venv/bin/sonoray", "ingest", "table", table, "--workspace", scratch]
        subprocess.run(command, check=True, capture_output=True, cwd=scratch)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def summarise(
    rounds: list[dict[str, Any]], costs: list[dict[str, float]], num_images: int
) -> dict[str, Any]:
    """Seconds and images/s of each way, how often faster workers are, and CPU time an image."""
    return {
        "cpu_seconds_per_image": {
            build: spread([each[build] / num_images for each in costs]) for build in costs[0]
        },
        "cpu_ratio": spread([each["now"] / each["before"] for each in costs])
        if "before" in costs[0]
        else None,
        "seconds": {way: spread([each[way] for each in rounds]) for way in rounds[0]},
        "images_per_second": {
            way: spread([num_images / each[way] for each in rounds]) for way in rounds[0]
        },
        "ratios": {
            way: spread([each[way] / each["workers"] for each in rounds])
            for way in ("one_core", "one_process")
        },
    }


def ingest_once(table: Path, workers: int, cores: int) -> dict[str, Any]:
    """Ingest the table into a workspace of its own, on so many cores."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    with tempfile.TemporaryDirectory(prefix="sonoray-bench-") as scratch:
        workspace = Workspace.open(Path(scratch))
        key = workspace.root / "identity.key"
        key.write_text(bytes(32).hex(), encoding="ascii")
        key.chmod(0o600)
        done = ingest.run(
            workspace=workspace,
            road=load_road("tiny", [f"ingest.workers={workers}"]),
            dataset="table",
            options=SourceOptions(path=table),
        )
        manifest = json.loads((Path(done.path) / "manifest.json").read_text(encoding="utf-8"))
    return {"made": json.dumps(manifest["files"], sort_keys=True), "peak_bytes": peak_bytes()}


def _run(table: Path, workers: int, cores: int) -> tuple[dict[str, Any], float]:
    return run_child(Path(__file__), "--child", table, workers, cores)


def _write_table(folder: Path, lines: list[str]) -> Path:
    table = folder / "studies.csv"
    table.write_text("\n".join(lines), encoding="utf-8")
    return table


if __name__ == "__main__":
    main()
