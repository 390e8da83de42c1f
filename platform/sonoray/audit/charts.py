"""The charts of an audit: labels, topics and numbers, nothing of a patient.

Figures are made without pyplot, as in `sonoray.metrics.plots`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sonoray.audit.pictures import COLOURS, drawable_text, text_font
from sonoray.study.contract import SPLITS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DPI = 110
_MAX_LABELS = 6
_MAX_SIZES = 2000
"""Most different sizes that are drawn."""


def draw_overview(values: Mapping[str, Any], path: Path) -> None:
    """Draw the charts: splits, images per study, sizes, labels, topics, what became of all.

    Args:
        values: as `json_values.to_values` gives them.
        path: the PNG.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties, fontManager

    family = ["DejaVu Sans"]
    if font := text_font():
        fontManager.addfont(str(font))
        family.append(FontProperties(fname=font).get_name())
    weight = _title_weight(family)
    style: dict[Any, Any] = {
        "font.family": family, "font.size": 9, "axes.titlesize": 10.5, "axes.titleweight": weight,
        "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False,
    }  # fmt: skip
    with rc_context(style):
        figure = Figure(figsize=(14, 8.4), layout="constrained")
        charts = figure.subplots(2, 3)
        _draw_splits(charts[0, 0], values)
        _draw_per_study(charts[0, 1], values)
        _draw_sizes(charts[0, 2], values)
        _draw_labels(charts[1, 0], values)
        _draw_topics(charts[1, 1], values)
        _draw_accounting(charts[1, 2], values)
        figure.suptitle(f"Dataset {values['dataset']}", fontsize=14, fontweight=weight, x=0.06)
        figure.savefig(path, dpi=_DPI)


def _title_weight(family: Sequence[str]) -> str:
    """Bold where every family has it: matplotlib warns of each title whose weight is missing."""
    from matplotlib.font_manager import fontManager, weight_dict

    bold = ("bold", weight_dict["bold"])
    has_bold = {entry.name for entry in fontManager.ttflist if entry.weight in bold}
    return "bold" if has_bold.issuperset(family) else "normal"


def _draw_splits(axes: "Axes", values: Mapping[str, Any]) -> None:
    kinds = ("patients", "studies", "images")
    for place, split in enumerate(SPLITS):
        heights = [values["splits"][split][kind] for kind in kinds]
        at = [number + 0.27 * (place - 1) for number in range(len(kinds))]
        bars = axes.bar(at, heights, width=0.25, color=COLOURS[split], label=split)
        axes.bar_label(bars, fontsize=7, padding=1)
    axes.set_xticks(range(len(kinds)), kinds)
    axes.legend(frameon=False, fontsize=8)
    axes.set_title("Splits")


def _draw_per_study(axes: "Axes", values: Mapping[str, Any]) -> None:
    counts = {int(k): n for k, n in values["images_per_study"].items()}
    bottom = np.zeros(len(counts))
    for split in SPLITS:
        heights = np.array([n[split] for n in counts.values()], dtype=float)
        axes.bar(list(counts), heights, bottom=bottom, color=COLOURS[split], width=0.8)
        bottom += heights
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel("images in a study")
    axes.set_ylabel("studies")
    axes.set_title("Images per study")


def _draw_sizes(axes: "Axes", values: Mapping[str, Any]) -> None:
    sizes = np.array(values["sizes"][:_MAX_SIZES], dtype=float).reshape(-1, 3)
    if len(sizes):
        area = 12 + 220 * sizes[:, 2] / sizes[:, 2].max()
        axes.scatter(sizes[:, 0], sizes[:, 1], s=area, color="#7a5c99", alpha=0.45, linewidth=0)
    axes.margins(0.15)
    axes.set_xlabel("width, pixels")
    axes.set_ylabel("height, pixels")
    axes.set_title(f"Image sizes ({len(values['sizes'])} different)")


def _draw_labels(axes: "Axes", values: Mapping[str, Any]) -> None:
    """Shares of the values of the first labels, in training and in the test."""
    labels = [
        label for label in values["labels"] if 2 <= (label["num_values"] or 0) <= 10
    ][:_MAX_LABELS]  # fmt: skip
    shades = (
        "#20435f",
        "#3f759f",
        "#77a6c8",
        "#b3cfe2",
        "#d9a05b",
        "#e6c79a",
        "#8a8f98",
        "#c5c9ce",
    )
    ticks = []
    for row, label in enumerate(labels):
        for place, split in enumerate((SPLITS[0], SPLITS[-1])):
            total = sum(counts[split] for counts in label["values"].values())
            left, at = 0.0, row + 0.2 * (2 * place - 1)
            for number, (value, counts) in enumerate(label["values"].items()):
                share = counts[split] / total if total else 0
                shade = shades[number % len(shades)]
                axes.barh(at, share, left=left, height=0.36, color=shade, edgecolor="white")
                name = drawable_text(value, list(label["values"]))
                if len(name) * 0.021 < share:
                    light = number % len(shades) < 2
                    axes.text(
                        left + share / 2, at, name, ha="center", va="center", fontsize=7,
                        color="white" if light else "black", parse_math=False,
                    )  # fmt: skip
                left += share
        ticks.append(label["name"] + (" (image)" if label["of_images"] else ""))
    axes.set_yticks(range(len(ticks)), ticks)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.invert_yaxis()
    axes.set_title("Labels: training above, test below")


def _draw_topics(axes: "Axes", values: Mapping[str, Any]) -> None:
    topics = [t for t in values["topics"] if t["constant_share"]["test"] is not None]
    at = np.arange(len(topics))
    constant = [topic["constant_share"]["test"] for topic in topics]
    seen = [topic["seen_share"]["test"] for topic in topics]
    axes.barh(
        at - 0.18, constant, height=0.34, color="#a05252", label="the most frequent of training"
    )
    axes.barh(at + 0.18, seen, height=0.34, color="#d9b8a8", label="any of training")
    axes.set_yticks(at, [topic["topic"] for topic in topics])
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.invert_yaxis()
    if topics:
        axes.legend(
            frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=2
        )
    axes.set_title("Answers of the test that are answers of training")


def _draw_accounting(axes: "Axes", values: Mapping[str, Any]) -> None:
    parts = {"kept": "#5a9e6f", "duplicate": "#d9c26a", "quarantined": "#b04a4a"}
    names = list(values["accounting"])
    left = np.zeros(len(names))
    for part, colour in parts.items():
        counts = [values["accounting"][name] for name in names]
        share = np.array([each[part] / max(1, each["seen"]) for each in counts])
        axes.barh(names, share, left=left, color=colour, height=0.5, label=part)
        left += share
    for row, name in enumerate(names):
        each = values["accounting"][name]
        text = f"{each['seen']} = " + " + ".join(str(each[part]) for part in parts)
        axes.text(0.01, row - 0.36, text, fontsize=8, va="bottom")
    axes.set_xlim(0, 1)
    axes.set_ylim(1.6, -0.8)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="lower left")
    axes.set_title("What became of what ingest saw")
