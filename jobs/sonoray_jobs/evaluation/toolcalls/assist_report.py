"""A model that may call tools beside the same model alone and the risk model alone."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sonoray.metrics import Bootstrap
from sonoray.metrics.paired import Difference, paired_differences
from sonoray.metrics.resampling import Estimate, Metric, among, estimates, mean_metric
from sonoray.metrics.tables import Table
from sonoray_jobs.evaluation.toolcalls.clinical_tools import OUTCOMES
from sonoray_jobs.evaluation.toolcalls.tool_loop import Assisted

ALONE, WITH_TOOLS, RISK_ALONE = "alone", "with tools", "risk model"


@dataclass(frozen=True, kw_only=True, slots=True)
class AskedOne:
    """One question in all ways."""

    study_id: str
    patient_key: str
    truth: str
    alone: str
    """The model's answer without tools."""
    assisted: Assisted
    by_risk: str
    """What the risk model alone would answer."""


def judge_assisted(
    asked: Sequence[AskedOne], positive: str, bootstrap: Bootstrap
) -> dict[str, Any]:
    """Accuracy and false negatives of the ways, paired; how tools were called.

    Args:
        asked: the questions.
        positive: the option whose misses are false negatives.
        bootstrap: how intervals are made.
    """
    answers = {
        ALONE: [each.alone for each in asked],
        WITH_TOOLS: [each.assisted.answer for each in asked],
        RISK_ALONE: [each.by_risk for each in asked],
    }
    truths = [each.truth for each in asked]
    patients = [each.patient_key for each in asked]
    metrics = {way: _metrics(own, truths, positive) for way, own in answers.items()}
    steps = [step for each in asked for step in each.assisted.steps]
    counts = Counter(step.outcome for step in steps)
    return {
        "num_questions": len(asked),
        "num_patients": len(set(patients)),
        "ways": {
            way: {
                name: found and found.to_json()
                for name, found in estimates(own, patients, bootstrap).items()
            }
            for way, own in metrics.items()
        },
        "with_tools_minus": {
            way: {
                name: asdict(each)
                for name, each in paired_differences(
                    metrics[way], metrics[WITH_TOOLS], patients, bootstrap
                ).items()
            }
            for way in (ALONE, RISK_ALONE)
        },
        "num_called": sum(bool(each.assisted.steps) for each in asked),
        "ended": dict(Counter(each.assisted.ended for each in asked)),
        "outcomes": {name: counts[name] for name in OUTCOMES},
        "calls": sum(each.assisted.calls for each in asked),
        "tokens": sum(each.assisted.tokens for each in asked),
    }


def _metrics(answers: Sequence[str], truths: Sequence[str], positive: str) -> dict[str, Metric]:
    pairs = list(zip(answers, truths, strict=True))
    right = np.array([float(answer == truth) for answer, truth in pairs])
    missed = np.array([float(answer != positive) for answer, _ in pairs])
    is_positive = np.array([truth == positive for _, truth in pairs])
    return {
        "accuracy": mean_metric(right),
        "false_negatives": among(mean_metric(missed), is_positive),
    }


def assist_table(values: Mapping[str, Any]) -> Table:
    """One row per way."""
    rows = []
    for way, own in values["ways"].items():
        difference = values["with_tools_minus"].get(way, {}).get("accuracy")
        told = "-"
        if difference is not None:
            found = Difference(**difference)
            told = f"{found.value:+.3f}"
            if found.low is not None:
                told += f" [{found.low:+.3f}, {found.high:+.3f}]"
        rates = (own["accuracy"], own["false_negatives"])
        rows.append(
            (way, *("-" if each is None else str(Estimate(**each)) for each in rates), told)
        )
    return Table(
        header=("way", "accuracy", "false negatives", "with tools, minus this"), rows=tuple(rows)
    )
