"""What the measurements of this folder share: fresh processes, spreads, the machine, the results.

A result is one JSON file of `bench/results`: what was asked for, the machine and the versions, what
every round gave, and a summary. `bench/data/report.py` writes the tables of `docs/performance.md`
from them, so that no figure is typed by hand.
"""

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sonoray.cluster.session import memory_limit_bytes

RESULTS = Path(__file__).resolve().parents[1] / "results"
PACKAGES = ("ray", "torch", "numpy", "pyarrow", "pillow")


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest of the rounds."""
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "rounds": len(values),
    }


def ratio(spread: Mapping[str, float]) -> tuple[str, str]:
    """A spread as a table shows it: the median, and smallest to largest."""
    digits = 2 if spread["median"] < 10 else 0
    low, high = (f"{spread[key]:.{digits}f}" for key in ("min", "max"))
    return f"{spread['median']:.{digits}f}", f"{low} to {high}"


def run_child(script: Path, *arguments: object) -> tuple[dict[str, Any], float]:
    """Run a script in a fresh process; its JSON, and its seconds from start to end.

    It starts a Ray of its own, whatever RAY_ADDRESS says. What it prints on stderr comes through.
    """
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    start = time.perf_counter()
    child = subprocess.run(
        [sys.executable, script, *map(str, arguments)],
        env=env,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    elapsed_s = time.perf_counter() - start
    printed: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return printed, elapsed_s


def peak_bytes() -> int:
    """The most that this process was resident in since it was started.

    Not `ru_maxrss`, which starts with that of the process that started it.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def machine() -> dict[str, Any]:
    """What the figures depend on; no name of the machine."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    git = ["git", "-C", str(RESULTS.parent), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory_limit_bytes() / 1024**3, 1),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in PACKAGES},
        "commit": commit or "unknown",
        "day": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def write_result(folder: Path, name: str, result: Mapping[str, Any]) -> None:
    """Write one result file, and say where."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"written: {path}", file=sys.stderr)
