"""The prompts beside each other: Dice and IoU by instruction, paired differences, sizes."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from sonoray.metrics import Bootstrap
from sonoray.metrics.paired import Difference, paired_differences
from sonoray.metrics.resampling import Estimate, estimates, mean_metric
from sonoray.metrics.tables import Table

ALL = "all"
_MEASURES = ("dice", "iou")

Rows = Sequence[Mapping[str, Any]]
"""As `outlining.learn_and_outline` gives them."""


def judge_outlines(
    rows: Rows,
    texts: Sequence[str],
    ways: Sequence[str],
    compared: Sequence[tuple[str, str]],
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    """Judge outlines.

    Args:
        rows: of judged images and instructions.
        texts: the instructions.
        ways: how images were outlined.
        compared: pairs of ways, of which the second minus the first is shown.
        bootstrap: how intervals are made.
    """
    groups = {text: [row for row in rows if row["instruction"] == number]
              for number, text in enumerate(texts)}  # fmt: skip
    if len(texts) > 1:
        groups[ALL] = list(rows)
    return {
        "instructions": {text: _judge(own, ways, compared, bootstrap)
                         for text, own in groups.items()},
        "sizes": {unit: _sizes(own, bootstrap) for unit, own in _by_unit(rows).items()},
    }  # fmt: skip


def _judge(
    rows: Rows, ways: Sequence[str], compared: Sequence[tuple[str, str]], bootstrap: Bootstrap
) -> dict[str, Any]:
    filled = [row for row in rows if row["has_target"]]
    empty = [row for row in rows if not row["has_target"]]
    return {
        "num_images": len(filled),
        "num_patients": len({row["patient_key"] for row in filled}),
        "num_empty": len(empty),
        "ways": {way: _scores(filled, way, bootstrap) for way in ways},
        "left_empty": {way: each["dice"] for way in ways
                       if (each := _scores(empty, way, bootstrap))},
        "differences": {
            f"{second} minus {first}": found
            for first, second in compared
            if (found := _difference(filled, first, second, bootstrap))
        },
    }  # fmt: skip


def _scores(rows: Rows, way: str, bootstrap: Bootstrap) -> dict[str, Any]:
    own = [row for row in rows if way in row["scores"]]
    if not own:
        return {}
    patients = [row["patient_key"] for row in own]
    metrics = {
        name: mean_metric(np.array([row["scores"][way][place] for row in own]))
        for place, name in enumerate(_MEASURES)
    }
    found = estimates(metrics, patients, bootstrap)
    return {name: each.to_json() for name, each in found.items() if each} | {"num": len(own)}


def _difference(rows: Rows, first: str, second: str, bootstrap: Bootstrap) -> dict[str, Any] | None:
    own = [row for row in rows if {first, second} <= row["scores"].keys()]
    if not own:
        return None
    sides = [
        {"dice": mean_metric(np.array([row["scores"][way][0] for row in own]))}
        for way in (first, second)
    ]
    patients = [row["patient_key"] for row in own]
    return asdict(paired_differences(sides[0], sides[1], patients, bootstrap)["dice"])


def _by_unit(rows: Rows) -> dict[str, Rows]:
    units = dict.fromkeys(row["unit"] for row in rows if "unit" in row)
    return {unit: [row for row in rows if row.get("unit") == unit] for unit in units}


def _sizes(rows: Rows, bootstrap: Bootstrap) -> dict[str, Any]:
    """How far sizes are off, of masks that are not empty."""
    found = [row for row in rows if row["area"] > 0]
    values: dict[str, Any] = {"num_images": len(rows), "num_empty": len(rows) - len(found)}
    if not found:
        return values
    metrics = {}
    for name in ("diameter", "area"):
        apart = np.array([row[name] - row[f"true_{name}"] for row in found])
        true = np.array([row[f"true_{name}"] for row in found])
        metrics[f"{name}_error"] = mean_metric(np.abs(apart))
        metrics[f"{name}_bias"] = mean_metric(apart)
        metrics[f"true_{name}"] = mean_metric(true)
    patients = [row["patient_key"] for row in found]
    measured = estimates(metrics, patients, bootstrap)
    return values | {name: each.to_json() for name, each in measured.items() if each}


def outlines_table(values: Mapping[str, Any], measure: str = "dice") -> Table:
    """One row for each instruction: a measure of each way, and images left empty."""
    own = values["instructions"]
    ways = list(dict.fromkeys(way for each in own.values() for way in each["ways"]))
    first = ways[0]
    return Table(
        header=(
            "instruction",
            "images (patients)",
            *ways,
            f"no target: left empty by {first}",
        ),
        rows=tuple(
            (
                text,
                f"{each['num_images']} ({each['num_patients']})",
                *(_cell(each["ways"][way].get(measure)) for way in ways),
                f"{_cell(each['left_empty'].get(first))} of {each['num_empty']}"
                if each["num_empty"]
                else "-",
            )
            for text, each in own.items()
        ),
    )


def differences_table(values: Mapping[str, Any]) -> Table:
    """One row for each two ways, over all instructions."""
    differences = list(values["instructions"].values())[-1]["differences"]
    return Table(
        header=("Dice", "first", "second", "difference", "p"),
        rows=tuple(
            (name, f"{found.first:.3f}", f"{found.second:.3f}", _signed(found), _p(found.p_value))
            for name, each in differences.items()
            if (found := Difference(**each))
        ),
    )


def size_lines(values: Mapping[str, Any]) -> list[str]:
    """How far largest diameters and areas are off."""
    lines = []
    for unit, each in values["sizes"].items():
        if "diameter_error" not in each:
            continue
        told = [
            f"{name} off by {_cell(each[f'{name}_error'])} {power} "
            f"(bias {each[f'{name}_bias']['value']:+.3f}; true {each[f'true_{name}']['value']:.3f})"
            for name, power in (("diameter", unit), ("area", f"{unit}^2"))
        ]
        lines.append(
            f"sizes in {unit}, {each['num_images']} masks ({each['num_empty']} left empty): "
            + "; ".join(told)
        )
    return lines


def _cell(estimate: Mapping[str, Any] | None) -> str:
    return str(Estimate(**estimate)) if estimate else "-"


def _signed(found: Difference) -> str:
    text = f"{found.value:+.3f}"
    return text if found.low is None else f"{text} [{found.low:+.3f}, {found.high:+.3f}]"


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
