"""Patient columns: a study's labels, or a table that a user brings; and which tell the answer.

A table is a CSV file with a column `study_id` or `image` (an image's id, or where it came from);
all others are patient columns. Of several rows of a study numbers are averaged, and words must
agree. An empty cell is unknown. A column is one of numbers where all its cells are, unless the
settings call it one of codes.

A column that alone tells an outcome of (nearly) every study is no history of a patient but the
outcome by another name (the kind of lesion, its histology): whoever learns from it has learned
nothing. Such columns are found in the training studies alone, left out with the reason, and refused
where they are asked for.
"""

import csv
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sonoray.errors import DataError
from sonoray.study.contract import STUDY_DATE_LABEL, Study
from sonoray_jobs.evaluation.encoding.targets import KEYS, is_number, studies_by

if TYPE_CHECKING:
    from sonoray_jobs.road.risk_config import RiskConfig

Value = float | str
Record = Mapping[str, Value]
"""A study's columns that are known, by name."""

_LEAST = 10
"""Studies of which a column must be known; of fewer nothing can be learned or told apart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """What is known of studies beside images and texts."""

    is_number: Mapping[str, bool]
    """By column, in order."""
    of_study: Mapping[str, Record]
    """By study id."""
    left_out: Mapping[str, str]
    """By column, why it is not taken."""

    @property
    def names(self) -> list[str]:
        """The columns."""
        return list(self.is_number)

    def without(self, reasons: Mapping[str, str]) -> "Columns":
        """Leave columns out."""
        return replace(
            self,
            is_number={name: kind for name, kind in self.is_number.items() if name not in reasons},
            of_study={
                study: {name: value for name, value in own.items() if name not in reasons}
                for study, own in self.of_study.items()
            },
            left_out={**self.left_out, **reasons},
        )


def read_columns(
    studies: Sequence[Study], table: Path | None, settings: "RiskConfig", dataset: str
) -> Columns:
    """The columns of studies, from a table or from their labels.

    Args:
        studies: those that are learned from or judged.
        table: a CSV file; without one the labels are the columns.
        settings: `columns` chooses, `codes` says which numbers are names.
        dataset: its name, for errors.

    Raises:
        DataError: there is no column, one that is asked for is unknown or known of too few studies,
            or the table cannot be read or has no row of these studies.
    """
    found = _labels(studies) if table is None else _table(table, studies)
    names = list(dict.fromkeys(name for own in found.values() for name in own))
    if not names:
        where = f"dataset {dataset!r}" if table is None else f"table {str(table)!r}"
        raise DataError(
            f"{where} has no patient column; give a CSV with --table, with columns study_id, age, "
            "..., or ingest labels"
        )
    wanted = list(settings.columns) or names
    if unknown := [name for name in (*settings.columns, *settings.codes) if name not in names]:
        raise DataError(
            f"column {unknown[0]!r} is known of no study; there are {', '.join(sorted(names))}"
        )
    kinds: dict[str, bool] = {}
    left_out: dict[str, str] = {}
    for name in wanted:
        own = [cells[name] for cells in found.values() if name in cells]
        if len(own) < _LEAST:
            left_out[name] = f"is known of {len(own)} studies, fewer than {_LEAST}"
        elif len(set(own)) < 2:
            left_out[name] = "is the same for all studies"
        else:
            kinds[name] = name not in settings.codes and all(map(is_number, own))
    if settings.columns and left_out:
        name = next(iter(left_out))
        raise DataError(f"column {name!r} {left_out[name]}; name others in risk.columns")
    if not kinds:
        told = "; ".join(f"{name} {reason}" for name, reason in left_out.items())
        raise DataError(f"no patient column can be used: {told}; give a CSV with --table")
    return Columns(
        is_number=kinds,
        of_study={
            study: {
                name: float(cell) if kinds[name] else cell
                for name, cell in cells.items()
                if name in kinds
            }
            for study, cells in found.items()
        },
        left_out=left_out,
    )


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
        if right >= leak_from * len(pairs):
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


def _labels(studies: Iterable[Study]) -> dict[str, dict[str, str]]:
    return {
        study.study_id: {
            name: value
            for name, value in study.labels.items()
            if value and name != STUDY_DATE_LABEL
        }
        for study in studies
    }


def _table(path: Path, studies: Sequence[Study]) -> dict[str, dict[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows, header = list(reader), list(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"table {str(path)!r} cannot be read ({error}); give a UTF-8 CSV") from None
    keys = [name for name in header if name in KEYS]
    names = [name for name in header if name not in KEYS]
    if len(keys) != 1 or not names:
        raise DataError(
            f"table {str(path)!r} has columns {header}; it needs one of {' or '.join(KEYS)}, and "
            "a column for each that is known of patients"
        )
    of_key = studies_by(keys[0], studies)
    cells: defaultdict[str, defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        study = of_key.get(row[keys[0]] or "")
        for name in names if study is not None else ():
            if cell := (row[name] or "").strip():
                cells[study or ""][name].append(cell)
    if not cells:
        first = rows[0][keys[0]] if rows else ""
        raise DataError(
            f"no row of table {str(path)!r} is of one of the {len(studies)} studies; its column "
            f"{keys[0]!r} begins with {first!r}, theirs with {next(iter(of_key), '')!r}"
        )
    return {
        study: {
            name: _one(own, f"{path.name}: study {study}, {name!r}") for name, own in row.items()
        }
        for study, row in cells.items()
    }


def _one(cells: Sequence[str], where: str) -> str:
    """One cell of several: the mean of numbers, or what all of them say."""
    if len(set(cells)) == 1:
        return cells[0]
    if all(map(is_number, cells)):
        return repr(sum(map(float, cells)) / len(cells))
    raise DataError(f"{where} is {' and '.join(sorted(set(cells))[:3])}; give one value")
