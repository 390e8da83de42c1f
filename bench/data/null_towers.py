"""The embed pipeline by itself: null towers over 10 thousand, 100 thousand and 1 million studies.

`python bench/data/null_towers.py [--studies 10000 100000 1000000]`

The towers return zeros at once, so what is left is the plan, the decoding of tiny PNGs, Ray Data
and the stores: what grows with an archive whatever the towers are. Two things must hold.

- Time is linear: a further study costs as much between the two largest sizes as between the two
  below them. Differences, because the start-up is in every run.
- The driver's memory is flat: the peak of the job's process hardly grows with the studies.

Each size gets a dataset of its own (one noise image of 16 px a study) and fresh processes.
"""

import argparse
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from record import RESULTS, machine, run_child, write_result

JOB = Path(__file__).with_name("null_job.py")


def main() -> None:
    """Run all sizes and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    start = time.perf_counter()
    described = machine()
    runs = [measure(num_studies) for num_studies in sorted(given.studies)]
    result = {
        "asked": {"studies": sorted(given.studies)},
        "machine": described,
        "runs": runs,
        "summary": summarise(runs),
        "took_s": time.perf_counter() - start,
    }
    write_result(given.results, "null_towers", result)


def measure(num_studies: int) -> dict[str, Any]:
    """Make so many studies and embed them."""
    with tempfile.TemporaryDirectory(prefix="sonoray-bench-") as scratch:
        home = Path(scratch) / "home"
        _, make_s = run_child(JOB, "make", home, num_studies)
        embedded, embed_s = run_child(JOB, "embed", home, num_studies)
        assert set(embedded["num_computed"].values()) == {num_studies}, embedded
    return {
        "studies": num_studies,
        "make_s": make_s,
        "process_s": embed_s,
        "busy_s": embedded["busy_s"],
        "driver_peak_bytes": embedded["peak_bytes"],
    }


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """What a further thousand studies cost at each size, and how memory and cost grow."""
    per_thousand = [
        (later["process_s"] - earlier["process_s"]) * 1000 / (later["studies"] - earlier["studies"])
        for earlier, later in pairwise(runs)
    ]
    peaks = [run["driver_peak_bytes"] for run in runs]
    summary: dict[str, Any] = {"further_thousand_s": per_thousand}
    if len(per_thousand) > 1:
        summary["cost_growth"] = per_thousand[-1] / per_thousand[-2]
    if len(peaks) > 1:
        summary["memory_growth"] = peaks[-1] / peaks[0]
    return summary


if __name__ == "__main__":
    main()
