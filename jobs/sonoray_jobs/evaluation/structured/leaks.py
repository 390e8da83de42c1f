"""Columns that tell an outcome by another name.

A column that alone tells an outcome of (nearly) every study is no history of a patient but the
outcome by another name (the kind of lesion, its histology): whoever learns from it has learned
nothing. Such columns are found in the training studies alone, left out with the reason, and refused
where they are asked for. So is a column that is known of the studies with an outcome alone.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from sonoray.errors import DataError
from sonoray_jobs.evaluation.structured.patient_columns import Columns, Value

if TYPE_CHECKING:
    from sonoray_jobs.road.risk_config import RiskConfig

_LEAST = 10
"""Training studies of which it takes the outcome to tell a leak from chance."""
_LEFT = 0.2
"""Share of the errors of the commonest outcome that a column which tells the outcome may leave."""


def find_leaks(
    columns: Columns,
    truth: Mapping[str, str],
    name: str,
    studies: Collection[str],
    leak_from: float,
) -> dict[str, str]:
    """By column that tells an outcome: how.

    Args:
        columns: of all studies.
        truth: by study id, the outcome.
        name: of the outcome.
        studies: ids of the training studies.
        leak_from: share of them from which on a column that tells the outcome alone is one.
    """
    found = {}
    for column, is_numeric in columns.is_number.items():
        if column == name:
            found[column] = f"is {name!r} itself"
            continue
        known: list[tuple[Value, str]] = [
            (str(column in columns.of_study.get(study, {})), truth[study])
            for study in studies
            if study in truth
        ]
        if _tells(known, _told(known, is_numeric=False), leak_from):
            found[column] = f"is known or unknown as {name!r} has it"
            continue
        pairs = [
            (columns.of_study[study][column], truth[study])
            for study in studies
            if study in truth and column in columns.of_study.get(study, {})
        ]
        if len(pairs) < _LEAST or len({outcome for _, outcome in pairs}) < 2:
            continue
        if not is_numeric and len({value for value, _ in pairs}) > len(pairs) / 2:
            found[column] = "has another value for nearly every study"
            continue
        right = _told(pairs, is_numeric)
        if _tells(pairs, right, leak_from):
            found[column] = f"alone tells {name!r} of {right} of {len(pairs)} training studies"
    return found


def without_leaks(
    columns: Columns,
    truth: Mapping[str, str],
    settings: "RiskConfig",
    studies: Collection[str],
) -> Columns:
    """Leave out the columns that tell the outcome.

    Raises:
        DataError: one of them was asked for, or none is left.
    """
    leaks = find_leaks(columns, truth, settings.outcome, studies, settings.leak_from)
    asked = [name for name in leaks if name in settings.columns]
    if settings.allow_leaks:
        leaks = {name: reason for name, reason in leaks.items() if name not in asked}
    elif asked:
        raise DataError(
            f"column {asked[0]!r} {leaks[asked[0]]}; leave it out of risk.columns, or set "
            "risk.allow_leaks=true where it is known before the outcome"
        )
    kept = columns.without(leaks)
    if not kept.is_number:
        told = "; ".join(f"{name} {reason}" for name, reason in kept.left_out.items())
        raise DataError(f"no patient column is left: {told}; give a CSV with --table")
    return kept


def _tells(pairs: Sequence[tuple[Value, str]], right: int, leak_from: float) -> bool:
    """Whether a column that is right so often tells the outcome, and not only that it is rare."""
    if len(pairs) < _LEAST:
        return False
    rest = len(pairs) - max(Counter(outcome for _, outcome in pairs).values())
    wrong = len(pairs) - right
    return right >= leak_from * len(pairs) and wrong < _LEFT * rest


def _told(pairs: Sequence[tuple[Value, str]], is_numeric: bool) -> int:
    """Of how many studies the column alone tells the outcome, at best.

    Of words each value stands for its commonest outcome. Of numbers each run of values between two
    cuts does, with one cut less than there are outcomes.
    """
    of_value: defaultdict[Value, Counter[str]] = defaultdict(Counter)
    for value, outcome in pairs:
        of_value[value][outcome] += 1
    if not is_numeric:
        return sum(max(own.values()) for own in of_value.values())
    ranked = [of_value[value] for value in sorted(of_value)]
    outcomes = sorted({outcome for _, outcome in pairs})
    # by number of cuts: most studies told so far, by what the last run stands for
    best = [dict.fromkeys(outcomes, 0) for _ in outcomes]
    for own in ranked:
        fewer = [-1, *(max(each.values()) for each in best[:-1])]
        best = [
            {each: max(known, before) + own[each] for each, known in told.items()}
            for before, told in zip(fewer, best, strict=True)
        ]
    return max(max(each.values()) for each in best)
