"""How much worse the answers are under each condition, with intervals by patient.

A condition is compared with the clean one question by question, on the same draws of patients. A
kind of condition is judged by all its strengths together: the mean over them.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from sonoray.metrics import AnswerRecord, Bootstrap
from sonoray.metrics.answers import topic_options
from sonoray.metrics.class_rates import accuracy_metric
from sonoray.metrics.closed import answer_metrics
from sonoray.metrics.paired import paired_differences
from sonoray.metrics.resampling import Floats, Metric, estimates, mean_metric
from sonoray.metrics.tables import Table
from sonoray_jobs.evaluation.predictions import to_record
from sonoray_jobs.evaluation.robustness.conditions import Conditions

Row = Mapping[str, Any]


def judge(
    rows: Sequence[Row],
    conditions: Conditions,
    positive: Mapping[str, str],
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    """Judge answers under all conditions.

    Args:
        rows: of `ConditionActor`, in any order.
        conditions: what their numbers mean.
        positive: by topic, the positive option.
        bootstrap: how intervals are made.

    Returns:
        JSON values: `clean`; `conditions`, one entry each; `kinds`, one entry for all strengths of
        a kind. `difference` is condition minus clean, `gain` calibrated minus not.
    """
    groups: defaultdict[tuple[int, bool], list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: (row["study_id"], row["question_number"])):
        groups[row["condition"], row["is_calibrated"]].append(row)
    clean = groups[0, False]
    patients = [row["patient_key"] for row in clean]
    judged: list[dict[str, Any]] = []
    for number, condition in enumerate(conditions.conditions):
        if not number:
            continue
        plain, moved = groups[number, False], groups.get((number, True))
        found = {
            "kind": condition.kind,
            "strength": condition.strength,
            **_values(plain, positive, bootstrap),
            "difference": _difference(clean, plain, patients, bootstrap),
            "same_pick": _same_picks(clean, plain, bootstrap),
        }
        if moved is not None and condition.perturbation is not None:
            found["calibrated"] = {
                **_values(moved, positive, bootstrap),
                "gain": _difference(plain, moved, patients, bootstrap),
                "recognised": _share_recognised(moved, conditions, condition.kind),
            }
        judged.append(found)
    result: dict[str, Any] = {
        "num_questions": len(clean),
        "num_studies": len({row["study_id"] for row in clean}),
        "clean": _values(clean, positive, bootstrap),
        "conditions": judged,
        "kinds": [
            _kind(kind, conditions, groups, bootstrap)
            for kind in dict.fromkeys(each.kind for each in conditions.conditions[1:])
        ],
    }
    if (0, True) in groups:  # what the cure costs where nothing is wrong
        calibrated = groups[0, True]
        result["clean"]["calibrated"] = {
            **_values(calibrated, positive, bootstrap),
            "gain": _difference(clean, calibrated, patients, bootstrap),
            "recognised": _share_recognised(calibrated, conditions, conditions.conditions[0].kind),
        }
    return result


def kinds_table(values: Mapping[str, Any]) -> Table:
    """One row per kind of condition, the worst first."""
    kinds = sorted(values["kinds"], key=lambda each: each["difference"]["value"])
    has_gain = any("gain" in each for each in kinds)
    header = ("condition", "accuracy", "minus clean", "same image first")
    rows = [
        (
            each["kind"],
            f"{each['difference']['second']:.3f}",
            signed(each["difference"]),
            "-" if each["same_pick"] is None else f"{each['same_pick']:.3f}",
            *([signed(each.get("gain")), _share(each.get("recognised"))] if has_gain else []),
        )
        for each in kinds
    ]
    more = ("calibrated, gain", "recognised") if has_gain else ()
    return Table(header=(*header, *more), rows=tuple(rows))


def strengths_table(values: Mapping[str, Any]) -> Table:
    """Accuracy of each kind at each strength; calibrated behind a slash."""
    strengths = sorted({each["strength"] for each in values["conditions"]})
    rows = []
    for kind in dict.fromkeys(each["kind"] for each in values["conditions"]):
        of_kind = {each["strength"]: each for each in values["conditions"] if each["kind"] == kind}
        cells = []
        for strength in strengths:
            each = of_kind[strength]
            cell = f"{each['accuracy']['value']:.3f}"
            if "calibrated" in each:
                cell += f" / {each['calibrated']['accuracy']['value']:.3f}"
            cells.append(cell)
        rows.append((kind, *cells))
    return Table(header=("condition", *(f"{each:g}" for each in strengths)), rows=tuple(rows))


def headlines(values: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """What MLflow shows: by kind the mean accuracy, what is kept of the clean one, the gain."""
    clean = values["clean"]["accuracy"]["value"]
    found = {f"{prefix}/clean/accuracy": clean}
    for each in values["kinds"]:
        found[f"{prefix}/{each['kind']}/accuracy"] = each["difference"]["second"]
        if "gain" in each:
            found[f"{prefix}/{each['kind']}/calibrated_gain"] = each["gain"]["value"]
    mean = float(np.mean([each["difference"]["second"] for each in values["kinds"]]))
    found[f"{prefix}/mean_accuracy"] = mean
    return found


def _kind(
    kind: str,
    conditions: Conditions,
    groups: Mapping[tuple[int, bool], Sequence[Row]],
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    """All strengths of a kind, each question once for each."""
    numbers = [at for at, each in enumerate(conditions.conditions) if each.kind == kind]
    clean = [row for _ in numbers for row in groups[0, False]]
    plain = [row for number in numbers for row in groups[number, False]]
    patients = [row["patient_key"] for row in clean]
    picks = _same_picks(clean, plain, bootstrap)
    found: dict[str, Any] = {
        "kind": kind,
        "difference": _difference(clean, plain, patients, bootstrap),
        "same_pick": picks and picks["value"],
    }
    moved = [row for number in numbers for row in groups.get((number, True), ())]
    if moved and conditions.conditions[numbers[0]].perturbation is not None:
        found["gain"] = _difference(plain, moved, patients, bootstrap)
        found["recognised"] = _share_recognised(moved, conditions, kind)
    return found


def _values(
    rows: Sequence[Row], positive: Mapping[str, str], bootstrap: Bootstrap
) -> dict[str, Any]:
    """Accuracy over all questions, and the mean AUC over the topics that have one."""
    records = [to_record(row) for row in rows]
    metrics: dict[str, Metric] = {"accuracy": accuracy_metric(records)}
    aucs = _topic_aucs(records, positive)
    if aucs:
        metrics["auc"] = _mean_metric(aucs)
    found = estimates(metrics, [record.patient_key for record in records], bootstrap)
    return {name: value and value.to_json() for name, value in found.items()}


def _topic_aucs(records: Sequence[AnswerRecord], positive: Mapping[str, str]) -> list[Metric]:
    places: defaultdict[str, list[int]] = defaultdict(list)
    for place, record in enumerate(records):
        places[record.topic].append(place)
    found = []
    for topic, own in places.items():
        of_topic = [records[place] for place in own]
        options = topic_options(topic, of_topic, positive.get(topic))
        auc = answer_metrics(of_topic, options, positive.get(topic)).get("auc")
        if auc is not None:
            found.append(_of_places(auc, own))
    return found


def _of_places(metric: Metric, places: Sequence[int]) -> Metric:
    """A metric of some of the answers, as one of all."""

    def chosen(weights: Floats) -> Floats:
        return metric(weights[:, list(places)])

    return chosen


def _mean_metric(metrics: Sequence[Metric]) -> Metric:
    """The mean of those that a draw defines; NaN where it defines none."""

    def mean(weights: Floats) -> Floats:
        values = np.stack([metric(weights) for metric in metrics])
        defined = ~np.isnan(values)
        with np.errstate(invalid="ignore"):
            return np.asarray(np.where(defined, values, 0).sum(axis=0) / defined.sum(axis=0))

    return mean


def _difference(
    first: Sequence[Row], second: Sequence[Row], patients: Sequence[str], bootstrap: Bootstrap
) -> dict[str, Any]:
    """Accuracy, second minus first, of the same questions in the same order."""
    sides = [{"accuracy": accuracy_metric([to_record(row) for row in side])}
             for side in (first, second)]  # fmt: skip
    return asdict(paired_differences(sides[0], sides[1], patients, bootstrap)["accuracy"])


def _same_picks(
    clean: Sequence[Row], other: Sequence[Row], bootstrap: Bootstrap
) -> dict[str, Any] | None:
    """Share of the questions about several images whose first image is the one of before."""
    pairs = [(one, two) for one, two in zip(clean, other, strict=True) if len(one["image_ids"]) > 1]
    if not pairs:
        return None
    same = np.array([float(one["selected"][0] == two["selected"][0]) for one, two in pairs])
    patients = [one["patient_key"] for one, _ in pairs]
    found = estimates({"same": mean_metric(same)}, patients, bootstrap)["same"]
    return found.to_json() if found else None


def _share_recognised(rows: Sequence[Row], conditions: Conditions, kind: str) -> float:
    """Share of the images, each once for a study and condition, taken to be of this kind."""
    seen = {(row["study_id"], row["condition"]): row["recognised"] for row in rows}
    taken = [conditions.conditions[at].kind == kind for found in seen.values() for at in found]
    return float(np.mean(taken))


def signed(difference: Mapping[str, Any] | None) -> str:
    """A difference with its sign, and its interval where it has one."""
    if difference is None:
        return "-"
    text = f"{difference['value']:+.3f}"
    if difference["low"] is None:
        return text
    return f"{text} [{difference['low']:+.3f}, {difference['high']:+.3f}]"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
