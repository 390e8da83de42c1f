"""Answers with patient columns in the prompt, beside the plain prompt and another patient's."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from sonoray.metrics import AnswerRecord, Bootstrap
from sonoray.metrics.answers import class_scores, most_frequent, topic_options
from sonoray.metrics.class_rates import accuracy_metric, auc_metric
from sonoray.metrics.paired import paired_differences
from sonoray.metrics.resampling import Metric, among, estimates, mean_metric

PLAIN, TOLD, OTHER = "plain", "told", "other"
WAYS = (PLAIN, TOLD, OTHER)
"""Without columns, with the patient's, with another patient's."""
ALL = "all"

Answers = Mapping[str, Sequence[AnswerRecord]]
"""By way, the same questions in the same order."""


def judge_told(
    answers: Answers,
    learned: Mapping[str, Sequence[str]],
    positives: Mapping[str, str],
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    """Judge the ways, topic by topic and over all.

    The constant is None where a topic has no training question.

    Args:
        answers: of each way.
        learned: by topic the training answers, for the constant answer.
        positives: by topic the positive option, where it is not the usual one.
        bootstrap: how intervals are made.
    """
    topics = list(dict.fromkeys(record.topic for record in answers[PLAIN]))
    constants = {topic: most_frequent(learned.get(topic, ())) for topic in topics}
    found = {
        topic: _judge(
            {way: [each for each in own if each.topic == topic] for way, own in answers.items()},
            topic,
            positives.get(topic),
            bootstrap,
        )
        for topic in topics
    }
    found[ALL] = _judge(answers, None, None, bootstrap)
    for topic, own in found.items():
        asked = [each for each in answers[PLAIN] if topic in (ALL, each.topic)]
        is_known = all(constants[each.topic] is not None for each in asked)
        right = sum(constants[each.topic] == each.truth for each in asked)
        own["constant"] = right / len(asked) if is_known else None
    return {"topics": found}


def _judge(
    answers: Answers, topic: str | None, positive: str | None, bootstrap: Bootstrap
) -> dict[str, Any]:
    metrics = {way: _metrics(own, topic, positive) for way, own in answers.items()}
    patients = [record.patient_key for record in answers[PLAIN]]
    ways = {
        way: {name: each and each.to_json() for name, each in found.items()}
        for way, found in (
            (way, estimates(own, patients, bootstrap)) for way, own in metrics.items()
        )
    }
    return {
        "num_questions": len(patients),
        "num_patients": len(set(patients)),
        "ways": ways,
        "told_minus_plain": _apart(metrics[PLAIN], metrics[TOLD], patients, bootstrap),
        "told_minus_other": _apart(metrics[OTHER], metrics[TOLD], patients, bootstrap),
    }


def _metrics(
    records: Sequence[AnswerRecord], topic: str | None, positive: str | None
) -> dict[str, Metric]:
    found = {"accuracy": accuracy_metric(records)}
    if topic is None:
        return found
    options = topic_options(topic, records, positive)
    truth = np.array([options.index(record.truth) for record in records])
    scores = class_scores(records, options)
    if scores is not None:
        found["auc"] = auc_metric(scores, truth)
    if len(options) == 2:
        missed = np.array([float(record.answer != options[1]) for record in records])
        found["false_negatives"] = among(mean_metric(missed), truth == 1)
    return found


def _apart(
    first: Mapping[str, Metric],
    second: Mapping[str, Metric],
    patients: Sequence[str],
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    found = paired_differences(first, second, patients, bootstrap)
    return {name: asdict(each) for name, each in found.items()}
