"""Metrics of groups of answers: does a result hold for every scanner, organ, site, sex and year.

All groups are resampled with the same draws of patients. A group of few patients is not shown by
itself: its interval says nothing, and its figures come near to single patients. Such groups are
counted together.
"""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sonoray.metrics.resampling import Bootstrap, Estimate, Metric, among, estimates

SMALL = "groups of few patients"
UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """The answers that share a value."""

    value: str
    num_questions: int
    num_patients: int
    estimates: Mapping[str, Estimate | None]
    """By metric; None where the group leaves it undefined."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def metrics_by_group(
    metrics: Mapping[str, Metric],
    values: Sequence[str],
    patients: Sequence[Hashable],
    bootstrap: Bootstrap,
    *,
    least_patients: int,
) -> list[Group]:
    """Compute metrics of each group, the largest first; `SMALL` and `UNKNOWN` come last.

    Args:
        metrics: of all answers, as functions of weights.
        values: the value of each of the N answers; empty where it is unknown.
        patients: the patient of each.
        bootstrap: how intervals are made.
        least_patients: groups of fewer patients are counted together.
    """
    members = pool_small(values, patients, least_patients)
    counts = Counter(members)
    names = sorted(counts, key=lambda name: (name in (SMALL, UNKNOWN), -counts[name], name))
    of_group = {name: np.array([member == name for member in members]) for name in names}
    found = estimates(
        {
            f"{number} {metric}": among(function, of_group[name])
            for number, name in enumerate(names)
            for metric, function in metrics.items()
        },
        patients,
        bootstrap,
    )
    return [
        Group(
            value=name,
            num_questions=counts[name],
            num_patients=len(
                {
                    patient
                    for patient, member in zip(patients, members, strict=True)
                    if member == name
                }
            ),
            estimates={metric: found[f"{number} {metric}"] for metric in metrics},
        )
        for number, name in enumerate(names)
    ]


def pool_small(
    values: Sequence[str], patients: Sequence[Hashable], least_patients: int
) -> list[str]:
    """Put `SMALL` in the place of values of few patients, `UNKNOWN` in that of an empty one."""
    known = [value or UNKNOWN for value in values]
    owners: dict[str, set[Hashable]] = {}
    for value, patient in zip(known, patients, strict=True):
        owners.setdefault(value, set()).add(patient)
    return [
        value if value == UNKNOWN or len(owners[value]) >= least_patients else SMALL
        for value in known
    ]
