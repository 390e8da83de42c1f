"""Accuracy against strength as a picture: one panel for each kind of condition."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 4
_PANEL_INCHES = (3.0, 2.4)


def draw(values: Mapping[str, Any], path: Path) -> None:
    """Write the picture of what `degradation.judge` returned as PNG."""
    make_figure(values).savefig(path, dpi=120, metadata={"Software": None})


def make_figure(values: Mapping[str, Any]) -> "Figure":
    """Draw the panels: accuracy with its interval, calibrated dashed, clean at strength 0."""
    from matplotlib.figure import Figure

    kinds = list(dict.fromkeys(each["kind"] for each in values["conditions"]))
    num_rows = -(-len(kinds) // _COLUMNS)
    width, height = _PANEL_INCHES
    figure = Figure(figsize=(width * _COLUMNS, height * num_rows), layout="constrained")
    grid = list(figure.subplots(num_rows, _COLUMNS, squeeze=False, sharey=True).flat)
    for axes, kind in zip(grid, kinds, strict=False):
        of_kind = [each for each in values["conditions"] if each["kind"] == kind]
        strengths = [0.0, *(each["strength"] for each in of_kind)]
        plain = [values["clean"]["accuracy"], *(each["accuracy"] for each in of_kind)]
        axes.plot(strengths, [each["value"] for each in plain], ".-", label="as it is")
        if all(each["low"] is not None for each in plain):
            ends = ([each[end] for each in plain] for end in ("low", "high"))
            axes.fill_between(strengths, *ends, alpha=0.2, label="95 % interval, by patient")
        if all("calibrated" in each for each in (values["clean"], *of_kind)):
            moved = [each["calibrated"]["accuracy"] for each in (values["clean"], *of_kind)]
            values_moved = [each["value"] for each in moved]
            axes.plot(strengths, values_moved, ".--", label="calibrated")
        axes.set_title(kind, fontsize=10)
        axes.set_ylim(0, 1)
        axes.grid(alpha=0.3)
    for axes in grid[len(kinds) :]:
        axes.set_visible(False)
    figure.supxlabel("strength", fontsize=9)
    figure.supylabel("accuracy of closed questions", fontsize=9)
    handles = {
        label: handle
        for axes in grid[: len(kinds)]
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, fontsize=8)
    return figure
