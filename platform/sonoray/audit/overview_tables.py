"""The tables of an audit that the terminal and the page share: splits, labels, topics."""

from collections.abc import Mapping
from typing import Any

from sonoray.metrics.tables import Table
from sonoray.study.contract import SPLITS


def split_table(values: Mapping[str, Any]) -> Table:
    """One row per split."""
    rows = [(split, *(str(n) for n in each.values())) for split, each in values["splits"].items()]
    names = next(iter(values["splits"].values()))
    return Table(header=("split", *(name.replace("_", " ") for name in names)), rows=tuple(rows))


def label_table(values: Mapping[str, Any]) -> Table:
    """One row per value of each label, with its studies (or images) by split."""
    rows = []
    for label in values["labels"]:
        name = f"{label['name']} (image)" if label["of_images"] else label["name"]
        if label["num_values"] is None:
            rows.append((name, "a measurement", *("" for _ in SPLITS)))
        for number, (value, counts) in enumerate(label["values"].items()):
            cells = (_with_share(counts[split], label, split) for split in SPLITS)
            rows.append((name if number == 0 else "", value, *cells))
    return Table(header=("label", "value", *SPLITS), rows=tuple(rows))


def topic_table(values: Mapping[str, Any]) -> Table:
    """One row per topic: questions, repetition, and what the constant answer reaches."""
    rows = [
        (
            topic["topic"],
            "/".join(topic["tasks"]) or "caption",
            *(str(topic["questions"][split]) for split in SPLITS),
            str(topic["distinct"]),
            f"{topic['repeated_share']:.0%}",
            _percent(topic["constant_share"]["test"]),
            _percent(topic["seen_share"]["test"]),
        )
        for topic in values["topics"]
    ]
    header = ("topic", "task", *SPLITS, "distinct", "repeated", "constant", "seen")
    return Table(header=header, rows=tuple(rows))


def _with_share(count: int, label: Mapping[str, Any], split: str) -> str:
    total = sum(counts[split] for counts in label["values"].values())
    return f"{count} ({count / total:.0%})" if total else "0"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"
