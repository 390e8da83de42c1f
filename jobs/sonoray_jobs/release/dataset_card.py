"""The dataset card: what a model was trained on, in counts, made from the dataset itself.

It lies as `DATASET.md` in an exported folder and says where the studies came from, how they were
accepted, split and cleaned, and what they hold. Numbers below `LEAST` are not told, so that nobody
is singled out, and no text of a study is.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sonoray.audit.census import Census, Counts, LabelCount
from sonoray.metrics.tables import Table
from sonoray.study.contract import SPLITS, iter_studies

LEAST = 10
"""Studies of a label's value that are counted by themselves."""
_MOST_VALUES = 12
"""Values of a label that are listed; of one with more only their number is told."""
_KEPT_BACK = {"seed"}
"""Settings that tell nothing to a reader."""


def dataset_card(name: str, source: str, manifest: Mapping[str, Any], folder: Path) -> str:
    """Write the card as Markdown.

    Args:
        name: of the dataset.
        source: what read it, as `sonoray ingest SOURCE` names it; empty where nobody knows.
        manifest: of its ingest output.
        folder: that output.
    """
    census = Census()
    for study in iter_studies(folder, complete=False):
        census.add(study)
    counts = census.finish()
    lines = [
        f"# Dataset {name}",
        "",
        f"Key `{manifest['key'][:16]}`, read by the source `{source or 'unknown'}`.",
        "",
        "## What was kept",
        "",
        *_account(manifest["summary"]),
        "",
        "## Splits",
        "",
        "By patient: images and studies of one patient, and near duplicates, are in one split.",
        "",
        *_splits(counts),
        "",
        "## Questions",
        "",
        *_questions(counts),
        "",
        "## Labels",
        "",
        *_labels(counts),
        "",
        "## How it was made",
        "",
        *_settings(manifest["config"]["ingest"]),
        "",
    ]
    return "\n".join(lines)


def _account(summary: Mapping[str, Any]) -> Iterator[str]:
    rows = []
    for kind in ("studies", "images"):
        counts = summary.get(kind)
        if isinstance(counts, Mapping):
            rows.append((kind, *(f"{counts.get(part, 0):,}" for part in _ACCOUNT)))
    if rows:
        yield from Table(header=("", *_ACCOUNT), rows=tuple(rows)).markdown()
    reasons: Mapping[str, int] = summary.get("reasons") or {}
    if reasons:
        yield ""
        told = (f"{reason} {number:,}" for reason, number in sorted(reasons.items()))
        yield f"Quarantined: {', '.join(told)}."


_ACCOUNT = ("seen", "kept", "duplicate", "quarantined")


def _splits(counts: Counts) -> Iterator[str]:
    rows = tuple(
        (split, *(f"{each[split]:,}" for each in (counts.patients, counts.studies, counts.images)))
        for split in SPLITS
    )
    yield from Table(header=("split", "patients", "studies", "images"), rows=rows).markdown()


def _questions(counts: Counts) -> Iterator[str]:
    rows = tuple(
        (
            topic.topic,
            "closed" if topic.is_closed else "free",
            *(f"{topic.questions[split]:,}" for split in SPLITS),
            f"{topic.distinct:,}",
        )
        for topic in counts.topics
    )
    header = ("topic", "kind", *SPLITS, "different answers")
    yield from Table(header=header, rows=rows).markdown()


def _labels(counts: Counts) -> Iterator[str]:
    rows = tuple(
        (label.name, "images" if label.of_images else "studies", _values(label))
        for label in counts.labels
    )
    if not rows:
        yield "It has none."
        return
    yield from Table(header=("label", "of", "values and how often"), rows=rows).markdown()


def _values(label: LabelCount) -> str:
    if label.num_values is None:
        return "a measurement, or many values"
    if label.num_values > _MOST_VALUES:
        return f"{label.num_values} values"
    totals = {value: sum(by_split.values()) for value, by_split in label.values.items()}
    return ", ".join(
        f"{value} {number:,}" if number >= LEAST else f"{value} (fewer than {LEAST})"
        for value, number in totals.items()
    )


def _settings(config: Mapping[str, Any]) -> Iterator[str]:
    from sonoray.tracking.params import flatten_params

    rows = tuple(
        (f"`ingest.{name}`", value)
        for name, value in flatten_params(config).items()
        if name not in _KEPT_BACK
    )
    yield from Table(header=("setting", "value"), rows=rows).markdown()
