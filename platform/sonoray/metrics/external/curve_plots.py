"""The curves of one topic in one picture: reliability, risk and coverage, decisions.

Numbers alone, nothing of a patient; no text of the data either, which matplotlib's own font may
lack the characters for.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sonoray.metrics.external.calibration import Calibration
from sonoray.metrics.external.decision_curve import DecisionPoint
from sonoray.metrics.external.risk_coverage import RiskCoverage
from sonoray.metrics.resampling import Estimate

_DPI = 110
_PANEL_INCHES = 4.2


def plot_curves(
    calibration: Calibration,
    risks: RiskCoverage,
    decisions: Sequence[DecisionPoint],
    path: Path,
) -> None:
    """Draw the curves beside each other, with intervals over patients.

    Args:
        calibration: the reliability diagram.
        risks: risk by coverage.
        decisions: net benefit by threshold; none for a topic of more than two options.
        path: the PNG.
    """
    from matplotlib.figure import Figure

    number = 3 if decisions else 2
    figure = Figure(figsize=(_PANEL_INCHES * number, _PANEL_INCHES))
    panels = figure.subplots(1, number)
    _draw_reliability(panels[0], calibration)
    _draw_risks(panels[1], risks)
    if decisions:
        _draw_decisions(panels[2], decisions)
    figure.tight_layout()
    figure.savefig(path, dpi=_DPI)


def _draw_reliability(axes: Any, calibration: Calibration) -> None:  # noqa: ANN401 - matplotlib
    bins = calibration.bins
    axes.plot([0, 1], [0, 1], "--", color="grey", linewidth=1)
    at = [each.mean_probability for each in bins]
    observed = [each.observed for each in bins]
    axes.errorbar(
        at,
        [each.value for each in observed],
        yerr=np.array([_arms(each) for each in observed]).T,
        fmt="o-",
        markersize=4,
        capsize=2,
    )
    for place, each in zip(at, bins, strict=True):
        axes.annotate(
            str(each.num_questions), (place, 0.01), fontsize=7, ha="center", color="dimgrey"
        )
    _frame(axes, "predicted probability", "observed share", "reliability (grey: answers in a bin)")


def _draw_risks(axes: Any, risks: RiskCoverage) -> None:  # noqa: ANN401 - matplotlib
    _draw_band(axes, [each.coverage for each in risks.points], [each.risk for each in risks.points])
    _frame(axes, "coverage: share that is answered", "risk: share of wrong answers", "risk")


def _draw_decisions(axes: Any, decisions: Sequence[DecisionPoint]) -> None:  # noqa: ANN401 - matplotlib
    thresholds = [each.threshold for each in decisions]
    _draw_band(axes, thresholds, [each.model for each in decisions], label="model")
    axes.plot(thresholds, [each.treat_all for each in decisions], color="dimgrey", label="always")
    axes.axhline(0, color="black", linewidth=1, label="never")
    highest = max(0.05, *(each.model.high or each.model.value for each in decisions))
    _frame(axes, "threshold probability", "net benefit", "decision curve")
    axes.set_ylim(-0.1, min(1.0, 1.1 * highest))
    axes.legend(fontsize=7)


def _draw_band(
    axes: Any,  # noqa: ANN401 - matplotlib
    at: Sequence[float],
    found: Sequence[Estimate],
    label: str | None = None,
) -> None:
    axes.plot(at, [each.value for each in found], ".-", label=label)
    bounded = [
        (place, each.low, each.high)
        for place, each in zip(at, found, strict=True)
        if each.low is not None and each.high is not None
    ]
    if bounded:
        places, lows, highs = zip(*bounded, strict=True)
        axes.fill_between(places, lows, highs, alpha=0.2)


def _frame(axes: Any, across: str, up: str, title: str) -> None:  # noqa: ANN401 - matplotlib
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel(across, fontsize=8)
    axes.set_ylabel(up, fontsize=8)
    axes.set_title(title, fontsize=9)
    axes.grid(alpha=0.3)


def _arms(estimate: Estimate) -> tuple[float, float]:
    """Lengths of the error bar below and above the value."""
    if estimate.low is None or estimate.high is None:
        return 0.0, 0.0
    return max(0.0, estimate.value - estimate.low), max(0.0, estimate.high - estimate.value)
