"""Outcomes of studies: a closed question's answer, or a label."""

from collections.abc import Iterable

from sonoray.errors import DataError
from sonoray.study.contract import Study


def read_outcomes(studies: Iterable[Study], name: str, positive: str) -> dict[str, bool]:
    """By study id whether an outcome is the positive one; studies without the outcome are left out.

    Args:
        studies: any.
        name: a closed question's topic or a label.
        positive: an option of the question or a value of the label.

    Raises:
        DataError: no study has such an outcome, or none is positive.
    """
    found: dict[str, bool] = {}
    known: set[str] = set()
    for study in studies:
        told = {turn.answer for turn in study.turns if turn.topic == name and turn.options}
        if label := study.labels.get(name):
            told.add(label)
        if told:
            found[study.study_id] = positive in told
            known |= told
    if not found:
        raise DataError(
            f"outcome {name!r} is neither a closed question's topic nor a label of these studies; "
            "name one with risk.outcome"
        )
    if positive not in known:
        raise DataError(
            f"outcome {name!r} is never {positive!r}; set risk.positive to one of "
            f"{', '.join(sorted(known)[:12])}"
        )
    return found
