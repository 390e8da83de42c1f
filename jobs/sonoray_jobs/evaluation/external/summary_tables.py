"""The tables of an external validation that terminal and page share, from its JSON values."""

from collections.abc import Mapping
from typing import Any

from sonoray.metrics import Estimate, Table

METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "auc": "AUC",
    "macro_f1": "macro F1",
    "brier": "Brier",
    "ece": "ECE",
}
"""Names of the metrics, in the order of the tables; of the last two, less is better."""


def overview_table(values: Mapping[str, Any]) -> Table:
    """One row per topic and metric: here, in the internal test, and the difference."""
    rows = []
    for topic, found in values["topics"].items():
        counts = f"{found['num_questions']} ({found['num_patients']})"
        for metric, name in METRICS.items():
            if metric not in found["external"]:
                continue
            difference = found["differences"].get(metric)
            rows.append(
                (
                    topic,
                    counts,
                    name,
                    shown(found["external"][metric]),
                    shown(found["internal"].get(metric)),
                    "-" if difference is None else _signed(difference),
                )
            )
            topic = counts = ""  # named once
        constant = f"constant answer {found['constant_answer']}, accuracy"
        rows.append(("", "", constant, shown(found["constant_accuracy"]), "", ""))
    header = ("topic", "questions (patients)", "metric", "here", "internal test", "difference")
    return Table(header=header, rows=tuple(rows))


def account_table(values: Mapping[str, Any]) -> Table:
    """One row per topic: what became of the dataset's studies."""
    rows = [
        (
            topic,
            account["name"],
            str(account["asked"]),
            str(account["from_labels"]),
            str(account["lacking"]),
            str(sum(account["unmapped"].values()) + account["unmapped_alone"]),
            str(account["contradictory"]),
        )
        for topic, account in values["accounts"].items()
    ]
    header = ("topic", "called", "asked", "by label", "no truth", "no option", "two truths")
    return Table(header=header, rows=tuple(rows))


def group_table(label: str, groups: list[Mapping[str, Any]]) -> Table:
    """One row per value of a label."""
    names = [name for name in ("positive", "accuracy", "auc", "brier") if _any(groups, name)]
    heads = {
        "positive": "share of positive",
        "accuracy": "accuracy",
        "auc": "AUC",
        "brier": "Brier",
    }
    return Table(
        header=(label, "questions", "patients", *(heads[name] for name in names)),
        rows=tuple(
            (
                group["value"],
                str(group["num_questions"]),
                str(group["num_patients"]),
                *(shown(group["estimates"].get(name)) for name in names),
            )
            for group in groups
        ),
    )


def bin_table(calibration: Mapping[str, Any]) -> Table:
    """The reliability diagram."""
    return Table(
        header=("mean probability", "answers", "observed share"),
        rows=tuple(
            (f"{each['mean_probability']:.3f}", str(each["num_questions"]), shown(each["observed"]))
            for each in calibration["bins"]
        ),
    )


def risk_table(risks: Mapping[str, Any]) -> Table:
    """Risk by coverage."""
    return Table(
        header=("coverage", "share of wrong answers"),
        rows=tuple((f"{each['coverage']:.0%}", shown(each["risk"])) for each in risks["points"]),
    )


def decision_table(decisions: list[Mapping[str, Any]]) -> Table:
    """Net benefit by threshold."""
    return Table(
        header=("threshold", "model", "always", "model minus the better of always and never"),
        rows=tuple(
            (
                f"{each['threshold']:.2f}",
                shown(each["model"]),
                f"{each['treat_all']:.3f}",
                shown(each["gain"]),
            )
            for each in decisions
        ),
    )


def shown(estimate: Mapping[str, Any] | None) -> str:
    """An estimate with its interval; a dash where there is none."""
    return "-" if estimate is None else str(Estimate(**estimate))


def _any(groups: list[Mapping[str, Any]], metric: str) -> bool:
    return any(group["estimates"].get(metric) is not None for group in groups)


def _signed(difference: Mapping[str, Any]) -> str:
    low, high = difference["low"], difference["high"]
    ends = "" if low is None else f" [{low:+.3f}, {high:+.3f}]"
    return f"{difference['value']:+.3f}{ends}"
