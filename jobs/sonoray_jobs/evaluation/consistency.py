"""Consistency: whether a model's reports say what it answers when it is asked.

A report and a closed answer of one study come from the same images and the same model, and still
may say opposite things; whoever reads both believes neither. What a text says is read with the
terms of `sonoray.audit.terms`: a report that names no value of a topic is silent and not compared,
one that names several agrees if the answer's is among them. An answer that is only a yes or no
means the presence of what its topic asks for. Topics and texts without terms are not compared.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sonoray.audit.terms import LABEL_TERMS, LabelTerms
from sonoray.metrics.answers import NO, YES
from sonoray.metrics.resampling import Bootstrap, Estimate, among, estimates, mean_metric


@dataclass(frozen=True, kw_only=True, slots=True)
class Consistency:
    """How often reports agree with the same model's closed answers."""

    num_compared: int
    """Pairs of a report and a closed answer that both name a value of the answer's topic."""
    num_silent: int
    """Pairs in which the report names none."""
    agreement: Estimate
    """Share of the compared pairs that agree, with an interval over patients."""
    topics: dict[str, Estimate]
    """The same by topic, in the order of their first appearance."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def measure_consistency(
    predictions: Sequence[Mapping[str, Any]], bootstrap: Bootstrap
) -> Consistency | None:
    """Hold every report against every closed answer of its study.

    Args:
        predictions: rows as `AnswerActor` gives them.
        bootstrap: how the intervals are made.

    Returns:
        None where no report names a value of a topic that was asked.
    """
    reports: defaultdict[str, list[str]] = defaultdict(list)
    for row in predictions:
        if row["task"] == "report":
            reports[row["study_id"]].append(row["answer"])
    patients, topics, agrees, num_silent = [], [], [], 0
    for row in predictions:
        table = LABEL_TERMS.get(row["topic"])
        if row["task"] != "closed" or table is None:
            continue
        meant = _meant(table, row["answer"])
        for report in reports[row["study_id"]] if meant else ():
            said = table.named(report).keys()
            if not said:
                num_silent += 1
                continue
            patients.append(row["patient_key"])
            topics.append(row["topic"])
            agrees.append(bool(said & meant))
    if not agrees:
        return None
    agreement, asked = mean_metric(np.array(agrees, dtype=np.float64)), np.array(topics)
    found = estimates(
        {
            "": agreement,
            **{topic: among(agreement, asked == topic) for topic in dict.fromkeys(topics)},
        },
        patients,
        bootstrap,
    )
    known = {topic: each for topic, each in found.items() if each is not None}  # all: each has one
    return Consistency(
        num_compared=len(agrees),
        num_silent=num_silent,
        agreement=known.pop(""),
        topics=known,
    )


def _meant(table: LabelTerms, answer: str) -> set[str]:
    """The values that a closed answer means."""
    if table.absent and answer.lower() in NO:
        return {table.absent}
    if table.absent and answer.lower() in YES:
        return {value for value in table.terms if value not in ("", table.absent)}
    return set(table.named(answer))
