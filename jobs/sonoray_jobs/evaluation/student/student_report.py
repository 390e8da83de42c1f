"""The student beside its model: differences question by question, and what each costs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import inf
from statistics import median
from typing import Any

from llava_ultra.student.student_card import Route, least_confidence
from sonoray.metrics import AnswerRecord, Bootstrap, compare_all_closed, compare_answers
from sonoray.metrics.answers import most_frequent
from sonoray.metrics.paired import Difference, TopicComparison
from sonoray.metrics.tables import Table
from sonoray_jobs.evaluation.student.router import route


def judge_student(
    model: Sequence[AnswerRecord],
    student: Sequence[AnswerRecord],
    learned: Mapping[str, Sequence[str]],
    positive: Mapping[str, str],
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    """Judge a student; differences are student minus model.

    Args:
        model: its answers.
        student: the student's, to the same questions in the same order.
        learned: by topic the training answers, the commonest of which is the constant one.
        positive: by topic, the positive option of two.
        bootstrap: how intervals are made.
    """
    asked = {record.topic for record in model}
    compared = compare_answers(
        model,
        student,
        positive={topic: option for topic, option in positive.items() if topic in asked},
        bootstrap=bootstrap,
    )
    whole = compare_all_closed(model, student, bootstrap=bootstrap)
    assert whole is not None  # questions were asked
    topics = {}
    for each in compared:
        own = [record for record in model if record.topic == each.topic]
        constant = most_frequent(learned.get(each.topic, ()))
        right = sum(record.truth == constant for record in own) / len(own)
        topics[each.topic] = _values(each) | {"constant": right}
    return {"topics": topics, "all": _values(whole)}


def _values(compared: TopicComparison) -> dict[str, Any]:
    shown = ("accuracy", "balanced_accuracy", "auc")
    kept = {name: asdict(compared.differences[name]) for name in shown
            if name in compared.differences}  # fmt: skip
    return {
        "num_questions": compared.num_questions,
        "num_same": compared.num_questions - compared.num_different,
        **kept,
    }


def times_of(
    model_s: Sequence[float], pooling_s: Sequence[float], student_s: Sequence[float]
) -> dict[str, float]:
    """CPU time a study, medians over batches: all closed questions about it."""
    ours = median(pooling_s) + median(student_s)
    theirs = median(model_s)
    return {"model_ms": 1000 * theirs, "student_ms": 1000 * ours, "ratio": ours / theirs}


def judge_router(
    model: Sequence[AnswerRecord],
    student: Sequence[AnswerRecord],
    routes: Sequence[Route],
    budget: float,
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    """Model and student together beside the model, on the judged split.

    Args:
        model: its answers.
        student: the student's, to the same questions, calibrated.
        routes: what each way of sharing cost where it was chosen.
        budget: what is allowed to be lost.
        bootstrap: how intervals are made.
    """
    least = least_confidence(routes, budget)
    together, share = route(model, student, inf if least is None else least)
    compared = compare_all_closed(model, together, bootstrap=bootstrap)
    assert compared is not None  # questions were asked
    return {
        "budget": budget,
        "least_confidence": least,
        "share": share,
        "accuracy": asdict(compared.differences["accuracy"]),
    }


def router_line(values: Mapping[str, Any]) -> str:
    """What a person reads of a router at the configured budget."""
    found = next((each for each in values["budgets"] if each["budget"] == values["budget"]), None)
    if found is None:
        return "router: too few patients to choose how sure the student must be"
    both = Difference(**found["accuracy"])
    told = (
        f"router with a budget of {found['budget']:g}, chosen on the patients of "
        f"{_CHOSEN_ON[values['chosen_on']]}: the student answers {found['share']:.0%}"
    )
    if found["least_confidence"] is not None:
        told += f" of the questions, those of which it is sure to {found['least_confidence']:.2f}"
    return f"{told}; accuracy of both {both.second:.3f}, {_signed(both)} of the model's"


_CHOSEN_ON = {"validation": "the validation split", "left out": "the training that were left out"}


def router_table(values: Mapping[str, Any]) -> Table:
    """One row per budget."""
    return Table(
        header=("budget", "sure to at least", "answered by the student", "accuracy of both",
                "minus model"),
        rows=tuple(_router_row(each) for each in values["router"]["budgets"]),
    )  # fmt: skip


def _router_row(found: Mapping[str, Any]) -> tuple[str, ...]:
    least, both = found["least_confidence"], Difference(**found["accuracy"])
    return (
        f"{found['budget']:g}",
        "never" if least is None else f"{least:.3f}",
        f"{found['share']:.3f}",
        f"{both.second:.3f}",
        _signed(both),
    )


def student_table(values: Mapping[str, Any]) -> Table:
    """One row per topic, and one of all."""
    rows = [
        (
            topic,
            str(each["num_questions"]),
            f"{each['constant']:.3f}",
            *_sides(each.get("accuracy")),
            *_sides(each.get("auc")),
            f"{each['num_same'] / each['num_questions']:.3f}",
        )
        for topic, each in values["topics"].items()
    ]
    whole = values["all"]
    last = (
        "all closed questions",
        str(whole["num_questions"]),
        "-",
        *_sides(whole["accuracy"]),
        *("-", "-", "-"),
        f"{whole['num_same'] / whole['num_questions']:.3f}",
    )
    return Table(
        header=(
            "topic",
            "questions",
            "constant",
            "model",
            "student",
            "student minus model",
            "model, AUC",
            "student, AUC",
            "difference",
            "same answer",
        ),
        rows=(*rows, last),
    )


def _sides(difference: Mapping[str, Any] | None) -> tuple[str, str, str]:
    if difference is None:
        return ("-", "-", "-")
    found = Difference(**difference)
    return f"{found.first:.3f}", f"{found.second:.3f}", _signed(found)


def _signed(found: Difference) -> str:
    text = f"{found.value:+.3f}"
    return text if found.low is None else f"{text} [{found.low:+.3f}, {found.high:+.3f}]"
