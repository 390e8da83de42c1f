"""One closed question in numbers: what each probe reaches, what the model loses of it."""

from collections.abc import Mapping, Sequence
from typing import Any

from sonoray.metrics import AnswerRecord, Bootstrap
from sonoray.metrics.answers import topic_options
from sonoray.metrics.closed import answer_metrics
from sonoray.metrics.paired import Difference, compare_answers
from sonoray.metrics.resampling import Estimate, estimates
from sonoray.metrics.tables import Table


def judge_topic(
    rows: Mapping[str, Sequence[AnswerRecord]],
    told: Mapping[tuple[str, str], AnswerRecord],
    topic: str,
    positive: str | None,
    constant: str | None,
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    """Accuracy and AUC of each probe and of the model, and model minus the probe of both.

    Args:
        rows: answers by probe, of the same questions.
        told: the model's, by study and topic; none where no model is judged.
        topic: of the questions.
        positive: its positive option.
        constant: the commonest answer of the training studies.
        bootstrap: how intervals are made.
    """
    found: dict[str, Any] = {
        name: _values(records, positive, bootstrap) for name, records in rows.items()
    }
    best = rows["both"]
    found["num_questions"] = len(best)
    right = [record.truth == constant for record in best]
    found["constant"] = sum(right) / len(right)
    answered = [told[key] for each in best if (key := (each.study_id, topic)) in told]
    if told and len(answered) == len(best):
        found["model"] = _values(answered, positive, bootstrap)
        (compared,) = compare_answers(
            best,
            answered,
            positive={topic: positive} if positive else None,
            bootstrap=bootstrap,
        )
        found["lost"] = {
            name: _difference(compared.differences[name])
            for name in ("accuracy", "auc")
            if name in compared.differences
        }
    return found


def _values(
    records: Sequence[AnswerRecord], positive: str | None, bootstrap: Bootstrap
) -> dict[str, Any]:
    options = topic_options(records[0].topic, records, positive)
    metrics = answer_metrics(records, options, positive)
    chosen = {str(name): metrics[name] for name in ("accuracy", "auc") if name in metrics}
    found = estimates(chosen, [record.patient_key for record in records], bootstrap)
    return {name: value.to_json() if value else None for name, value in found.items()}


def _difference(difference: Difference) -> dict[str, float | None]:
    return {
        "value": difference.value,
        "low": difference.low,
        "high": difference.high,
        "p_value": difference.p_value,
    }


def topics_table(values: Mapping[str, Any]) -> Table:
    """One row per topic; the model beside where there is one."""
    has_model = any("model" in each for each in values["topics"].values())
    header = ("topic", "questions", "constant", "clip", "sam", "both", "both, AUC")
    more = ("model", "model, AUC", "AUC, model minus both") if has_model else ()
    rows = []
    for topic, each in values["topics"].items():
        row = [
            topic,
            str(each["num_questions"]),
            f"{each['constant']:.3f}",
            *(f"{each[name]['accuracy']['value']:.3f}" for name in ("clip", "sam")),
            _shown(each["both"]["accuracy"]),
            _shown(each["both"].get("auc")),
        ]
        if has_model:
            model = each.get("model", {})
            row += [
                _shown(model.get("accuracy")),
                _shown(model.get("auc")),
                _signed(each.get("lost", {}).get("auc")),
            ]
        rows.append(tuple(row))
    return Table(header=(*header, *more), rows=tuple(rows))


def _shown(estimate: Mapping[str, Any] | None) -> str:
    return "-" if estimate is None else str(Estimate(**estimate))


def _signed(difference: Mapping[str, Any] | None) -> str:
    if difference is None:
        return "-"
    text = f"{difference['value']:+.3f}"
    return (
        text
        if difference["low"] is None
        else (f"{text} [{difference['low']:+.3f}, {difference['high']:+.3f}]")
    )
