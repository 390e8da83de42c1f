"""What a second opinion was worth, where the true answers are known: found, broken, learned from.

Four sets of answers to the same questions stand beside each other: those that were *given*, those
*suspected* (every suspect answer changed as the probabilities suggest, without asking anybody), the
*mended* ones and the *true* ones. `found` is the share of wrong answers that became right, `broken`
the share of right ones that became wrong. What learning from each is worth tell linear probes:
fitted to each set on other patients, judged on the true answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from sonoray.metrics import AnswerRecord, Bootstrap
from sonoray.metrics.class_rates import accuracy_metric
from sonoray.metrics.paired import compare_answers, paired_differences
from sonoray.metrics.resampling import among, estimates, mean_metric
from sonoray_jobs.evaluation.probing.linear import Asked, left_out

GIVEN, SUSPECTED, MENDED, TRUE = "given", "suspected", "mended", "true"
_LEAST = 1e-9
"""Probability of an option that no probe knows."""


def judge_answers(
    sets: Mapping[str, Sequence[str]],
    truth: Sequence[str],
    patients: Sequence[str],
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    """How right each set is, what it found and broke of the given one.

    Args:
        sets: by name the answers of each study; the given ones among them.
        truth: of each study.
        patients: of each.
        bootstrap: how intervals are made.
    """
    true, given = np.array(truth), np.array(sets[GIVEN])
    wrong = given != true
    found: dict[str, Any] = {"num_studies": len(true), "num_wrong": int(wrong.sum()), "sets": {}}
    metrics = {}
    for name, answers in sets.items():
        own = np.array(answers)
        right = (own == true).astype(np.float64)
        metrics[name] = {"right": mean_metric(right)}
        rates = {
            "right": mean_metric(right),
            "found": among(mean_metric(right), wrong),
            "broken": among(mean_metric(1 - right), ~wrong),
        }
        told = estimates(rates, patients, bootstrap)
        found["sets"][name] = {
            **{rate: value and value.to_json() for rate, value in told.items()},
            "num_changed": int((own != given).sum()),
            "num_found": int((wrong & (own == true)).sum()),
            "num_broken": int((~wrong & (own != true)).sum()),
        }
    for first, second in ((GIVEN, MENDED), (SUSPECTED, MENDED), (GIVEN, SUSPECTED)):
        apart = paired_differences(metrics[first], metrics[second], patients, bootstrap)
        found[f"{second}_minus_{first}"] = asdict(apart["right"])
    return found


def judge_probes(
    asked: Asked,
    sets: Mapping[str, Sequence[str]],
    truth: Sequence[str],
    positive: str | None,
    bootstrap: Bootstrap,
    seed: int,
) -> dict[str, Any]:
    """Linear probes that learned from each set, judged on the true answers of left-out patients.

    Args:
        asked: the studies, with any answers.
        sets: by name the answers of each study.
        truth: of each study.
        positive: the positive option.
        bootstrap: how intervals are made.
        seed: of the folds.
    """
    records: dict[str, list[AnswerRecord]] = {}
    for name, answers in {**sets, TRUE: truth}.items():
        probed = left_out(asked.with_answers(answers), seed)
        if probed is not None:
            records[name] = _records(asked, truth, *probed)
    found: dict[str, Any] = {}
    for name, own in records.items():
        right = estimates(
            {"accuracy": accuracy_metric(own)}, [each.patient_key for each in own], bootstrap
        )["accuracy"]
        found[name] = {"accuracy": right and right.to_json()}
    for first, second in ((GIVEN, MENDED), (GIVEN, TRUE), (SUSPECTED, MENDED)):
        if first in records and second in records:
            (apart,) = compare_answers(
                records[first],
                records[second],
                positive={asked.turns[0].topic: positive} if positive else None,
                bootstrap=bootstrap,
            )
            found[f"{second}_minus_{first}"] = {
                metric: asdict(apart.differences[metric])
                for metric in ("accuracy", "auc")
                if metric in apart.differences
            }
    return found


def _records(
    asked: Asked,
    truth: Sequence[str],
    options: Sequence[str],
    probabilities: Any,  # noqa: ANN401
) -> list[AnswerRecord]:
    rows = []
    for each, turn, true, own in zip(
        asked.studies, asked.turns, truth, np.nan_to_num(probabilities), strict=True
    ):
        known = dict(zip(options, np.log(np.maximum(own, _LEAST)).tolist(), strict=True))
        scores = {option: known.get(option, float(np.log(_LEAST))) for option in turn.options}
        rows.append(
            AnswerRecord(
                study_id=each.study.study_id,
                patient_key=each.study.patient_key,
                topic=turn.topic,
                truth=true,
                answer=max(scores, key=lambda option: scores[option]),
                options=tuple(scores),
                option_scores=scores,
            )
        )
    return rows
