"""Towers alone, language model alone and the whole model in one table, by topic and level.

A topic's error is laid at the door of

- the *towers*, where a linear probe of both does not answer better than the constant answer;
- the *language model*, where the probe does, the whole model answers worse than it, and the
  language model does not answer better than the constant answer although it is told the findings;
- what stands *between* them (fusion, sampler, connector, and what training made of it), where both
  halves know and the whole does not.

"Better" and "worse" mean that the interval of the paired difference lies on one side of 0. A dash
says that none of this is shown, which is no proof that all is well.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from sonoray.metrics import AnswerRecord, Bootstrap
from sonoray.metrics.answers import most_frequent
from sonoray.metrics.class_rates import accuracy_metric
from sonoray.metrics.paired import Difference, paired_differences
from sonoray.metrics.resampling import Estimate, estimate
from sonoray.metrics.tables import Table
from sonoray_jobs.evaluation.modes.levels import LEVELS, level_of
from sonoray_jobs.road.config import Level

Key = tuple[str, str]
"""Study and topic."""
Answers = Mapping[Key, AnswerRecord]

TOWERS, LANGUAGE, BETWEEN, NOTHING = "towers", "language model", "between", "-"


def judge_sources(
    whole: Answers,
    tower: Answers,
    language: Answers,
    learned: Mapping[str, Sequence[str]],
    levels: Mapping[str, Level],
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    """Judge the three modes on the questions that each of them answered.

    Args:
        whole: the model's answers.
        tower: the probe's of both towers; none of a topic that it could not learn.
        language: those of the language model that was told the findings; none of studies that say
            none.
        learned: by topic the training answers.
        levels: of topics, where they are others than usual.
        bootstrap: how intervals are made.
    """
    topics = list(dict.fromkeys(topic for _, topic in whole))
    constants = {topic: most_frequent(learned.get(topic, ())) for topic in topics}
    of_topic = {
        topic: _values([topic], whole, tower, language, constants, bootstrap) for topic in topics
    }
    of_level = {}
    for level in LEVELS:
        own = [topic for topic in topics if level_of(topic, levels) == level]
        if own:
            of_level[level] = _values(own, whole, tower, language, constants, bootstrap)
    return {
        "topics": {
            topic: {"level": level_of(topic, levels), **own} for topic, own in of_topic.items()
        },
        "levels": of_level,
    }


def _values(
    topics: Sequence[str],
    whole: Answers,
    tower: Answers,
    language: Answers,
    constants: Mapping[str, str | None],
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    asked = [key for key in whole if key[1] in topics]
    found: dict[str, Any] = {
        "num_questions": len(asked),
        "whole": _accuracy([whole[key] for key in asked], bootstrap),
    }
    constant = {key: replace(whole[key], answer=constants[key[1]] or "") for key in asked}
    right = [constant[key].answer == constant[key].truth for key in asked]
    found["constant"] = sum(right) / len(right)
    for name, answers in (("tower", tower), ("language", language)):
        own = [key for key in asked if key in answers]
        found[f"num_{name}"] = len(own)
        if own:
            found[name] = _accuracy([answers[key] for key in own], bootstrap)
            found[f"{name}_minus_constant"] = _apart(constant, answers, own, bootstrap)
            found[f"whole_minus_{name}"] = _apart(answers, whole, own, bootstrap)
    return found | {"source": source_of(found)}


def source_of(values: Mapping[str, Any]) -> str:
    """Where an error comes from, see the module's docstring."""
    if "tower" not in values:
        return NOTHING
    if not _is_above(values["tower_minus_constant"]):
        return TOWERS
    if not _is_below(values["whole_minus_tower"]):
        return NOTHING
    if "language" in values and not _is_above(values["language_minus_constant"]):
        return LANGUAGE
    return BETWEEN


def _is_above(difference: Mapping[str, Any]) -> bool:
    return difference["low"] is not None and difference["low"] > 0


def _is_below(difference: Mapping[str, Any]) -> bool:
    return difference["high"] is not None and difference["high"] < 0


def _accuracy(records: Sequence[AnswerRecord], bootstrap: Bootstrap) -> dict[str, Any]:
    patients = [record.patient_key for record in records]
    found = estimate(accuracy_metric(records), patients, bootstrap)
    assert found is not None  # there is a record
    return found.to_json()


def _apart(
    first: Answers, second: Answers, keys: Sequence[Key], bootstrap: Bootstrap
) -> dict[str, Any]:
    """Accuracy, second minus first."""
    sides = [{"accuracy": accuracy_metric([side[key] for key in keys])} for side in (first, second)]
    patients = [first[key].patient_key for key in keys]
    return asdict(paired_differences(sides[0], sides[1], patients, bootstrap)["accuracy"])


def sources_table(values: Mapping[str, Any]) -> Table:
    """One row per topic, the levels in their order, each with a row of its own."""
    rows = []
    for level, whole in values["levels"].items():
        for topic, own in values["topics"].items():
            if own["level"] == level:
                rows.append(_row(level, topic, own))
        rows.append(_row(level, "all", whole))
    return Table(
        header=(
            "level",
            "topic",
            "questions",
            "constant",
            "tower",
            "language",
            "whole",
            "whole minus tower",
            "error comes from",
        ),
        rows=tuple(rows),
    )


def _row(level: str, topic: str, values: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        level,
        topic,
        str(values["num_questions"]),
        f"{values['constant']:.3f}",
        *(str(Estimate(**values[name])) if name in values else "-" for name in
          ("tower", "language", "whole")),
        _signed(values.get("whole_minus_tower")),
        values["source"],
    )  # fmt: skip


def _signed(difference: Mapping[str, Any] | None) -> str:
    if difference is None:
        return "-"
    found = Difference(**difference)
    text = f"{found.value:+.3f}"
    return text if found.low is None else f"{text} [{found.low:+.3f}, {found.high:+.3f}]"
