"""What starting costs: `sonoray --help`, and the import of a training worker.

`python bench/startup.py --base CHECKOUT` runs both alternately, each in a fresh process with the
checkout's own environment, and prints medians: wall time of the help, CPU time (user and system) of
the import, which other work on the machine changes least. A base from before the modules stood in
rooms has its worker under another name. Without `--base` it measures this checkout alone. On two
cores five rounds take half a minute.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORKERS = ("sonoray_jobs.training.worker", "sonoray_jobs.training")


def worker_of(checkout: Path) -> str:
    """The module that a training worker imports, under the name that this checkout has for it."""
    new, old = WORKERS
    has_rooms = (checkout / "jobs" / "sonoray_jobs" / "training" / "worker.py").is_file()
    return new if has_rooms else old


def run(checkout: Path, *command: str) -> tuple[float, float]:
    """Run a command of a checkout's environment; wall and CPU seconds."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    folder = checkout / ".venv" / "bin"
    environment = os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(
        [str(folder / command[0]), *command[1:]],
        cwd=checkout,
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, help="checkout with a .venv of its own")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    helps, ours, theirs = [], [], []
    for round_ in range(arguments.rounds + 1):
        wall, _ = run(ROOT, "sonoray", "--help")
        _, own = run(ROOT, "python", "-c", f"import {worker_of(ROOT)}")
        if round_:  # the first one reads the files from the disk
            helps.append(wall)
            ours.append(own)
        if arguments.base:
            worker = worker_of(arguments.base)
            _, base = run(arguments.base, "python", "-c", f"import {worker}")
            theirs += [base] if round_ else []
    found = {
        "help_wall_s": statistics.median(helps),
        "worker_import_cpu_s": statistics.median(ours),
        "rounds": arguments.rounds,
        "load": os.getloadavg()[0],
    }
    if theirs:
        found["base_worker_import_cpu_s"] = statistics.median(theirs)
        found["worker_import_ratio"] = statistics.median(ours) / statistics.median(theirs)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
