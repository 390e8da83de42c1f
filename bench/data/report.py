"""Writes the tables of docs/performance.md and docs/scale.md from the results.

`python bench/data/report.py [--check]`

A page holds blocks between `<!-- table: NAME -->` and `<!-- end -->`; what stands between them is
made here from `bench/results/NAME.json` and nothing else, so that no figure is typed. A table whose
measurement was not made says so. `--check` changes nothing and fails where a page is not up to
date; a unit test does the same.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cost_model import Costs, Inputs, cost_table, size
from record import RESULTS, ratio
from training_tables import gpu_train, train_faults, train_step, train_workers

from sonoray.metrics.tables import Table

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = ("performance.md", "scale.md")
_BLOCK = re.compile(r"(<!-- table: ([a-z_]+) -->\n).*?(<!-- end -->)", re.DOTALL)

Result = dict[str, Any]


def main() -> None:
    """Write the pages, or check them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    for name in PAGES:
        page = DOCS / name
        before = page.read_text(encoding="utf-8")
        after = fill_page(before, given.results)
        if given.check and before != after:
            sys.exit(f"error: docs/{name} is not that of bench/results; run: make bench-data")
        page.write_text(after, encoding="utf-8")


def fill_page(text: str, results: Path) -> str:
    """Return a page with every block made anew."""

    def block(match: re.Match[str]) -> str:
        lines = block_lines(match[2], results)
        return match[1] + "\n".join(["", *lines, ""]) + "\n" + match[3]

    return _BLOCK.sub(block, text)


def block_lines(name: str, results: Path) -> list[str]:
    """The Markdown of one result."""
    path = results / f"{name}.json"
    if not path.is_file():
        folder = "bench" if name in IN_BENCH else "bench/data"
        return [
            f"Not measured yet: `python {folder}/{name}.py` writes `bench/results/{name}.json`."
        ]
    result = json.loads(path.read_text(encoding="utf-8"))
    return [*TABLES[name](result), "", conditions(result)]


def conditions(result: Result) -> str:
    """What was asked for, and the machine."""
    asked = ", ".join(f"{key} {_plain(value)}" for key, value in result["asked"].items())
    on = result["machine"]
    took = f" It took {result['took_s'] / 60:.0f} minutes." if "took_s" in result else ""
    gpu = f" with one {on['gpu']}" if "gpu" in on else ""
    return (
        f"Asked: {asked}. {on['processor']}, {on['cores']} cores, {on['memory_gib']} GiB{gpu}, "
        f"load before {on['load_before']}; Ray {on['ray']}, torch {on['torch']}, "
        f"Python {on['python']}; commit `{on['commit']}`, {on['day']}.{took}"
    )


def throughput(result: Result) -> list[str]:
    """Ratios with what was wanted, then seconds, then where they go."""
    summary = result["summary"]
    ratios = Table(
        header=("what", "wanted", "median", "smallest to largest"),
        rows=tuple((text, wanted, *ratio(summary["ratios"][key])) for key, text, wanted in RATIOS),
    )
    seconds = Table(
        header=("way", "seconds, start to end", "images/s, first commit to last"),
        rows=tuple(
            (text, _spread(summary["process_s"][way], 1), _spread(rate, 1) if rate else "-")
            for way, text in WAYS.items()
            for rate in [summary["images_per_second"].get(way)]
        ),
    )
    profile, loader = summary["profile"], summary["data_loader_profile"]
    rows = [(f"pipeline: {step}", _percent(share)) for step, share in profile.items()]
    rows.append(
        ("pipeline: none of these", f"{1 - sum(s['median'] for s in profile.values()):.0%}")
    )
    rows += [
        (f"DataLoader's main process: {step}", _percent(share)) for step, share in loader.items()
    ]
    shares = Table(header=("where the time goes", "share"), rows=tuple(rows))
    return [
        *ratios.markdown(),
        "",
        *seconds.markdown(),
        "",
        *shares.markdown(),
        "",
        "The pipeline's shares are of all cores' seconds. A step's seconds are those that pass "
        "while it works: with more busy processes than cores they add up to more than 100 %.",
    ]


def null_towers(result: Result) -> list[str]:
    """A row for each size, then the growth."""
    sizes = Table(
        header=("studies", "to write them, s", "to embed, s", "driver's peak"),
        rows=tuple(
            (
                f"{run['studies']:,}",
                f"{run['make_s']:,.0f}",
                f"{run['process_s']:,.1f}",
                size(run["driver_peak_bytes"]),
            )
            for run in result["runs"]
        ),
    )
    summary = result["summary"]
    growth = Table(
        header=("what grows", "wanted", "measured"),
        rows=tuple(
            (text, "0.9 to 1.1", f"{summary[key]:.2f}")
            for key, text in (
                ("cost_growth", "a further study's time, largest sizes over those below"),
                ("memory_growth", "the driver's peak, largest size over smallest"),
            )
            if key in summary
        ),
    )
    return [*sizes.markdown(), "", *growth.markdown()]


def embed_faults(result: Result) -> list[str]:
    """A row for each kind of kill."""
    return Table(
        header=("killed", "times", "the job went on", "batches begun twice", "rerun computed"),
        rows=tuple(
            (
                kind,
                str(row["kills"]),
                str(row["went_on"]),
                str(row["repeated"]),
                f"{row['recomputed']} features",
            )
            for kind, row in result["summary"].items()
        ),
    ).markdown()


def ingest_workers(result: Result) -> list[str]:
    """Ratios, seconds of each way, and the driver's memory."""
    summary = result["summary"]
    wanted = {"one_core": "-", "one_process": "at least 1.8"}
    ratios = Table(
        header=("seconds over those with workers", "wanted", "median", "smallest to largest"),
        rows=tuple(
            (INGEST_WAYS[way], wanted[way], *ratio(each)) for way, each in summary["ratios"].items()
        ),
    )
    seconds = Table(
        header=("way", "seconds, start to end", "images/s"),
        rows=tuple(
            (text, _spread(summary["seconds"][way], 1), _spread(rate, 1))
            for way, text in INGEST_WAYS.items()
            for rate in [summary["images_per_second"][way]]
        ),
    )
    cost = Table(
        header=("CPU of one process and its guards, start included", "wanted", "median, and range"),
        rows=tuple(
            (f"{INGEST_BUILDS[build]}, s an image", "-", _spread(cpu, 3))
            for build, cpu in summary["cpu_seconds_per_image"].items()
        )
        + tuple(
            ("this build over the one before", "at most 0.6", _spread(ratio, 2))
            for ratio in [summary["cpu_ratio"]]
            if ratio
        ),
    )
    memory = Table(
        header=("studies", "with workers, s", "driver's peak"),
        rows=tuple(
            (f"{run['studies']:,}", f"{run['process_s']:,.0f}", size(run["peak_bytes"]))
            for run in result["grown"]
        ),
    )
    tables = (ratios, seconds, cost, memory)
    return [line for table in tables for line in (*table.markdown(), "")][:-1]


def gpu(result: Result) -> list[str]:
    """A row for each tower and batch size."""
    rows = []
    for row in result["rows"]:
        name = (row["tower"].upper(), str(row["batch"]), f"{row['gflops_per_image']:,.0f}")
        if "problem" in row:
            rows.append((*name, row["problem"], "-", "-"))
            continue
        shares = (row.get(key) for key in ("share_of_peak", "busy_share"))
        cells = ("-" if share is None else f"{share:.0%}" for share in shares)
        rows.append((*name, f"{row['images_per_second']:,.1f}", *cells))
    header = ("tower", "batch", "GFLOPs an image", "images/s", "share of peak", "GPU busy")
    return Table(header=header, rows=tuple(rows)).markdown()


def scale(result: Result) -> list[str]:
    """The inputs, then the costs."""
    inputs, asked = result["inputs"], result["asked"]
    rates = ", ".join(f"{t.upper()} {r:,.0f}" for t, r in inputs["images_per_second"].items())
    share = f"{asked['gpu_share']:.0%} of {asked['peak_tflops']:g} TFLOP/s"
    rows = (
        ("images; texts", f"{inputs['images']:,}; {inputs['texts']:,}", "asked"),
        ("bytes of an image as PNG", f"{inputs['png_bytes']:,.0f}", "measured on the phantom"),
        (
            "seconds of a core to prepare one",
            f"{inputs['decode_s']:.3f}",
            "measured on the phantom",
        ),
        ("bytes of a study's row", f"{inputs['study_bytes']:,.0f}", "measured on the phantom"),
        ("bytes of an image's features", _plain(inputs["feature_bytes"]), "counted"),
        (
            "images/s of one GPU",
            rates,
            "measured" if asked["rates"] == "measured" else f"assumed: {share}",
        ),
        ("TFLOPs of a study's training step", f"{inputs['step_flops'] / 1e12:,.1f}", "counted"),
        ("speed of training", share, "assumed"),
    )
    given = Table(header=("input", "value", "from"), rows=rows)
    costs = cost_table(Inputs(**inputs), Costs(**result["costs"]))
    return [*given.markdown(), "", *costs.markdown()]


RATIOS = (
    ("steady_over_plain_loop", "images/s over the plain loop's", "at least 0.95"),
    ("whole_over_plain_loop", "start to end, plain loop's seconds over ours", "at least 0.90"),
    ("whole_over_data_loader", "start to end, DataLoader's seconds over ours", "above 1"),
    ("cached", "computing over finding everything cached", "at least 50"),
    ("predicted_bytes", "bytes predicted over bytes on disk", "0.85 to 1.15"),
    ("predicted_time", "seconds predicted from a pilot over seconds taken", "0.85 to 1.15"),
)
WAYS = {
    "pipeline": "the embed job",
    "plain_loop": "plain loop, a process a core",
    "data_loader": "torch DataLoader and np.save",
    "cached": "the embed job again",
}
INGEST_BUILDS = {"now": "this build", "before": "the build before"}
INGEST_WAYS = {
    "one_core": "one process, one core",
    "one_process": "one process, all cores",
    "workers": "Ray, with workers",
}
TABLES: dict[str, Callable[[Result], list[str]]] = {
    "throughput": throughput,
    "null_towers": null_towers,
    "embed_faults": embed_faults,
    "train_faults": train_faults,
    "train_step": train_step,
    "train_workers": train_workers,
    "gpu_train": gpu_train,
    "ingest_workers": ingest_workers,
    "gpu": gpu,
    "scale": scale,
}
"""By name of the result; the measurement is the script of the same name."""
IN_BENCH = ("train_step", "train_workers", "gpu_train")
"""Of which the script lies a folder higher."""


def _spread(spread: dict[str, float], digits: int) -> str:
    low, high = (f"{spread[key]:,.{digits}f}" for key in ("min", "max"))
    return f"{spread['median']:,.{digits}f} ({low} to {high})"


def _percent(spread: dict[str, float]) -> str:
    return f"{spread['median']:.0%}"


def _plain(value: Any) -> str:  # noqa: ANN401 - any JSON value
    if isinstance(value, list):
        return " ".join(_plain(each) for each in value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(each)}" for key, each in value.items())
    return f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    main()
