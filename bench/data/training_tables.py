"""The tables of docs/performance.md that tell of training; `bench/data/report.py` asks for them."""

from collections import Counter
from typing import Any

from cost_model import size
from record import ratio

from sonoray.metrics.tables import Table

Result = dict[str, Any]

STEP_RATIOS = (
    ("evidence", "the evidence road's, {slower} over {faster}", "at least 2.5"),
    ("smollm", "SmolLM2's shape, {slower} over {faster}", "at least 3"),
    ("shared", "SmolLM2's shape, a row for each of four questions over one reading", "-"),
    ("engine", "a plain loop's over the worker's", "at least 0.95"),
    ("trainer", "HF Trainer's padded rows over ours", "at least 2"),
)
PRODUCTS = {"highest": "float32", "medium": "float32 products rounded"}
STEP_CLOCKS = {"wall_s": "wall time", "cpu_s": "CPU time"}
WORKERS_WANTED = {
    "two workers on two cores over one on one": "at least 1.7",
    "two workers over one that has Ray beside it": "-",
    "plain loop's step over two workers'": "at least 0.95",
}
KILLED = {
    "worker": "a worker, in a step",
    "saving": "the workers, while a checkpoint is written",
    "driver": "the driver, which is started again",
    "raylet": "a node's raylet with all workers, and a new node comes",
}


def train_faults(result: Result) -> list[str]:
    """A row for each kind of kill; that the outcome is the same is asserted where it is run."""
    counts = Counter(kill["kind"] for kill in result["kills"])
    return Table(
        header=("killed", "times", "s until a new checkpoint", "smallest to largest"),
        rows=tuple(
            (KILLED[kind], str(counts[kind]), *ratio(spread))
            for kind, spread in result["summary"]["recovered_s"].items()
        ),
    ).markdown()


def train_workers(result: Result) -> list[str]:
    """Rates of the ways to train, then their ratios beside what was wanted."""
    rates = [(name, "-", *ratio(spread)) for name, spread in result["steps_per_s"].items()]
    ratios = [
        (name, WORKERS_WANTED[name], *ratio(spread)) for name, spread in result["ratios"].items()
    ]
    return Table(
        header=("steps a second, and their ratios", "wanted", "median", "smallest to largest"),
        rows=tuple(rates + ratios),
    ).markdown()


def train_step(result: Result) -> list[str]:
    """Ratios of times, then of memory, beside what was wanted."""
    rows = []
    for case, text, wanted in STEP_RATIOS:
        for row in result.get(case, []):
            more = [f"{row[key]} {key}" for key in ("image tokens",) if key in row]
            more += [f"picks {row['sampling']}"] if "sampling" in row else []
            more += [PRODUCTS[row["matmul_precision"]]] if "matmul_precision" in row else []
            for clock in ("wall_s", "cpu_s"):
                median, low, high = row[clock]
                named = ", ".join([text.format(**row), *more, STEP_CLOCKS[clock]])
                rows.append((named, wanted, f"{median:.2f}", f"{low:.2f} to {high:.2f}"))
    times = Table(header=("step", "wanted", "median", "smallest to largest"), rows=tuple(rows))
    peaks = [
        (f"{row['way']}, {row['image tokens']} image tokens", row["peak_bytes"], row.get("base"))
        for row in result.get("memory", [])
    ]
    peaks += [
        ("SAM, one picture of 1,024 px", row["new"]["peak_bytes"], row["base"]["peak_bytes"])
        for row in result.get("sam", [])
        if "base" in row
    ]
    memory = Table(
        header=("memory beside the weights", "this build", "the build before", "ratio"),
        rows=tuple(
            (text, size(peak), size(base) if base else "-", f"{peak / base:.2f}" if base else "-")
            for text, peak, base in peaks
        ),
    )
    return [*times.markdown(), "", *memory.markdown()]


def gpu_train(result: Result) -> list[str]:
    """A row for each case."""
    return Table(
        header=("decoder", "tokens", "studies", "recomputed", "tokens/s", "MFU", "6N", "GiB", "of"),
        rows=tuple(
            (
                row["shape"],
                f"{row['tokens']:,}",
                str(row["studies"]),
                "yes" if row["checkpoints"] else "no",
                f"{row['tokens_per_second']:,}" if "tokens_per_second" in row else row["problem"],
                *(f"{row[key]:.1%}" if key in row else "-" for key in ("mfu", "mfu_6n")),
                f"{row['allocated_gib']:.1f}" if "allocated_gib" in row else "-",
                f"{row['predicted_gib']:.1f}",
            )
            for row in result["rows"]
        ),
    ).markdown()
