"""The report as a picture: one panel per group of questions, one bar per variant, with intervals.

Comparisons (redundancies, organs) stand side by side in a panel; the dots across a bar are what the
constant answer or a random pick reaches.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sonoray_jobs.evaluation.ablation.report import NO_MODEL

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 2
_PANEL_INCHES = (6.0, 3.2)


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Write the picture as PNG."""
    make_figure(report).savefig(path, dpi=120, metadata={"Software": None})


def make_figure(report: Mapping[str, Any]) -> "Figure":
    """Draw the panels of a report as `report.make_report` returns it."""
    from matplotlib.figure import Figure

    comparisons = report["comparisons"]
    panels = list(
        dict.fromkeys(
            (group["name"], group["score"]) for each in comparisons for group in each["groups"]
        )
    )
    num_rows = -(-len(panels) // _COLUMNS)
    width, height = _PANEL_INCHES
    figure = Figure(figsize=(width * _COLUMNS, height * num_rows), layout="constrained")
    grid = list(figure.subplots(num_rows, _COLUMNS, squeeze=False).flat)
    for axes, (name, score) in zip(grid, panels, strict=False):
        axes.set_title(name)
        axes.set_ylabel(score)
        _draw_panel(axes, comparisons, name)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    legend: dict[str, Any] = {}
    for axes in grid[: len(panels)]:
        handles, labels = axes.get_legend_handles_labels()
        legend |= zip(labels, handles, strict=True)
    if NO_MODEL in legend:  # behind the variants
        legend[NO_MODEL] = legend.pop(NO_MODEL)
    figure.legend(
        legend.values(), legend.keys(), loc="outside lower center", ncols=min(4, len(legend))
    )
    return figure


def _draw_panel(axes: Any, comparisons: list[Mapping[str, Any]], name: str) -> None:  # noqa: ANN401
    shown = [
        (each, group) for each in comparisons for group in each["groups"] if group["name"] == name
    ]
    variants = list(dict.fromkeys(key for _, group in shown for key in group["variants"]))
    width = 0.8 / len(variants)
    for number, variant in enumerate(variants):
        here = [
            (place, group["variants"][variant])
            for place, (_, group) in enumerate(shown)
            if variant in group["variants"]
        ]
        places = [place + (number - (len(variants) - 1) / 2) * width for place, _ in here]
        values = [item["value"] for _, item in here]
        below = [max(0.0, item["value"] - _end(item, "low")) for _, item in here]
        above = [max(0.0, _end(item, "high") - item["value"]) for _, item in here]
        axes.bar(places, values, width, yerr=[below, above], capsize=2, label=variant)
        for place, (_, item) in zip(places, here, strict=True):
            if item["baseline"] is not None:
                edges = place - width / 2, place + width / 2
                value = item["baseline"]["value"]
                axes.hlines(value, *edges, colors="black", linestyles="dotted", label=NO_MODEL)
    titles = [", ".join(filter(None, [each["setting"], each["test"]])) for each, _ in shown]
    axes.set_xticks(range(len(shown)), titles)
    axes.set_ylim(0, 1)


def _end(item: Mapping[str, Any], end: str) -> float:
    """An end of the interval; the value itself where there is none."""
    return float(item["value"] if item[end] is None else item[end])
