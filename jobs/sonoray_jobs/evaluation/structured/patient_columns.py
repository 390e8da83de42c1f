"""Patient columns: a study's labels, or a table that a user brings.

A table is a CSV file with a column `study_id` or `image` (an image's id, or where it came from);
all others are patient columns. Of several images of a study numbers are averaged; all else that is
told twice must agree. An empty cell is unknown, and so are NA, NaN, N/A and null. A column is one
of numbers where all its cells are, unless the settings call it one of codes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sonoray.errors import DataError
from sonoray.study.contract import STUDY_DATE_LABEL, Study
from sonoray_jobs.evaluation.encoding.targets import is_number
from sonoray_jobs.evaluation.structured.column_table import is_empty, read_table

if TYPE_CHECKING:
    from sonoray_jobs.road.risk_config import RiskConfig

Value = float | str
Record = Mapping[str, Value]
"""A study's columns that are known, by name."""

_FEW = 0.2
"""Share of a column's cells below which numbers among words, or words among numbers, are few."""
_LARGEST = 1e100
"""Largest number that is taken: sums of squares of larger ones are no longer finite."""
LEAST_STUDIES = 5
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
    remarks: Sequence[str] = ()
    """What a user should know of a table: a line each, without a cell's value."""

    @property
    def names(self) -> list[str]:
        """The columns."""
        return list(self.is_number)

    def only(self, names: Sequence[str]) -> "Columns":
        """Some of the columns, in this order; without names all of them."""
        if not names:
            return self
        kept = self.without({name: "" for name in self.names if name not in names})
        kinds = {name: self.is_number[name] for name in names}
        return replace(kept, is_number=kinds, left_out=self.left_out)

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
    studies: Sequence[Study],
    table: Path | None,
    settings: "RiskConfig",
    dataset: str,
    everyone: Iterable[Study] = (),
) -> Columns:
    """All columns of studies, from a table or from their labels.

    Args:
        studies: those that are learned from or judged.
        table: a CSV file; without one the labels are the columns.
        settings: `columns` must be among them, `codes` says which numbers are names.
        dataset: its name, for errors.
        everyone: all its studies, to tell rows of others from rows of none.

    Raises:
        DataError: there is no column, one that is asked for is unknown or known of too few studies,
            one has numbers that are too large, or the table cannot be read or has no row of these
            studies.
    """
    remarks: list[str] = []
    if table is None:
        found = _labels(studies)
    else:
        found, num_strange = read_table(table, studies, everyone)
        if num_strange:
            remarks.append(f"{num_strange} rows of {table.name} are of no study of the dataset")
    names = list(dict.fromkeys(name for own in found.values() for name in own))
    if not names:
        where = f"dataset {dataset!r}" if table is None else f"table {str(table)!r}"
        raise DataError(
            f"{where} has no patient column; give a CSV with --table, with columns study_id, age, "
            "..., or ingest labels"
        )
    if unknown := [name for name in (*settings.columns, *settings.codes) if name not in names]:
        raise DataError(
            f"column {unknown[0]!r} is known of no study; there are {', '.join(sorted(names))}"
        )
    kinds: dict[str, bool] = {}
    left_out: dict[str, str] = {}
    for name in names:
        own = [cells[name] for cells in found.values() if name in cells]
        if len(own) < LEAST_STUDIES:
            left_out[name] = f"is known of {len(own)} studies, fewer than {LEAST_STUDIES}"
        elif len(set(own)) < 2:
            left_out[name] = "is the same for all studies"
        else:
            words = 0 if name in settings.codes else _num_words(name, own)
            kinds[name] = name not in settings.codes and not words
            if 0 < words <= (1 - _FEW) * len(own):
                remarks.append(
                    f"column {name!r} is taken as words: {words} of {len(own)} cells are no number"
                )
    if refused := [name for name in settings.columns if name in left_out]:
        raise DataError(
            f"column {refused[0]!r} {left_out[refused[0]]}; name others in risk.columns"
        )
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
        remarks=remarks,
    )


def _num_words(name: str, cells: Sequence[str]) -> int:
    """How many cells of a column are no number.

    Raises:
        DataError: it is one of numbers, and some are too large.
    """
    numbers = [abs(value) for value in map(_as_number, cells) if value is not None]
    words = len(cells) - len(numbers)
    if max(numbers, default=0.0) <= _LARGEST:
        return words
    if words <= _FEW * len(cells):  # then it is one of numbers
        raise DataError(
            f"column {name!r} has values beyond {_LARGEST:g}; mend them, or name it in risk.codes"
        )
    return sum(not is_number(cell) for cell in cells)


def _as_number(cell: str) -> float | None:
    """A number, an infinite one too; not what Python alone reads as one, such as 1_0."""
    try:
        return float(cell) if cell.isascii() and "_" not in cell else None
    except ValueError:
        return None


def _labels(studies: Iterable[Study]) -> dict[str, dict[str, str]]:
    return {
        study.study_id: {
            name: value
            for name, value in study.labels.items()
            if not is_empty(value.strip()) and name != STUDY_DATE_LABEL
        }
        for study in studies
    }
