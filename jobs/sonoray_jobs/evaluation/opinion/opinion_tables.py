"""A second opinion as tables: sets of answers, paired differences; which way of asking won."""

from collections.abc import Mapping
from typing import Any

from sonoray.metrics.paired import Difference
from sonoray.metrics.resampling import Estimate
from sonoray.metrics.tables import Table
from sonoray_jobs.evaluation.opinion.opinion_report import GIVEN, MENDED, SUSPECTED, TRUE


def answers_table(values: Mapping[str, Any]) -> Table:
    """The sets of answers, one a row."""
    probes = values.get("probes", {})
    rows = []
    for name, own in values["answers"]["sets"].items():
        probe = probes.get(name)
        rows.append(
            (
                name,
                str(own["num_changed"]),
                _shown(own["right"]),
                f"{own['num_found']}: {_shown(own['found'])}",
                f"{own['num_broken']}: {_shown(own['broken'])}",
                _shown(probe["accuracy"]) if probe else "-",
            )
        )
    probe = probes.get(TRUE)
    rows.append((TRUE, "-", "-", "-", "-", _shown(probe["accuracy"]) if probe else "-"))
    header = ("answers", "changed", "right", "errors found", "rights broken", "probe's accuracy")
    return Table(header=header, rows=tuple(rows))


def differences_table(values: Mapping[str, Any]) -> Table:
    """Paired differences: of right answers, of probes' accuracy and AUC."""
    answers, probes = values["answers"], values.get("probes", {})
    rows = []
    for second, first in ((MENDED, GIVEN), (MENDED, SUSPECTED), (SUSPECTED, GIVEN), (TRUE, GIVEN)):
        name = f"{second}_minus_{first}"
        probed = probes.get(name, {})
        rows.append(
            (
                f"{second} minus {first}",
                _signed(answers.get(name)),
                _signed(probed.get("accuracy")),
                _signed(probed.get("auc")),
            )
        )
    header = ("difference", "right", "probe's accuracy", "probe's AUC")
    return Table(header=header, rows=tuple(rows))


def ways_line(values: Mapping[str, Any]) -> str:
    """Which way of asking was believed, and what each is worth."""
    tried = ", ".join(
        f"{way} {_shown(each['auc'])}" if each["means"] else f"{way} too long for the context"
        for way, each in values["ways"].items()
    )
    told = f"AUC, right statements against wrong ones, {values['num_check']} studies: {tried}"
    if values["way"] is None:
        return f"no way of asking tells right from wrong, so nothing is changed; {told}"
    if values["way"] != "exemplars" and "exemplars" in values["ways"]:
        return f"asked by {values['way']}, since exemplars tell less; {told}"
    return f"asked by {values['way']}; {told}"


def _shown(estimate: Mapping[str, Any] | None) -> str:
    return "-" if estimate is None else str(Estimate(**estimate))


def _signed(difference: Mapping[str, Any] | None) -> str:
    if difference is None:
        return "-"
    found = Difference(**difference)
    text = f"{found.value:+.3f}"
    return text if found.low is None else f"{text} [{found.low:+.3f}, {found.high:+.3f}]"
