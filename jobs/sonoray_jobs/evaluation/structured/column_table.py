"""A table of patient columns: a CSV file whose rows are studies or images."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from sonoray.errors import DataError
from sonoray.study.contract import Study
from sonoray_jobs.evaluation.encoding.targets import (
    is_number,
    no_row_of_theirs,
    read_keyed_rows,
    studies_by,
)

_EMPTY = frozenset({"", "na", "nan", "n/a", "null"})
_MOST_LINES = 5
"""Lines that an error names."""


def read_table(
    path: Path, studies: Sequence[Study], everyone: Iterable[Study] = ()
) -> tuple[dict[str, dict[str, str]], int]:
    """Cells by study id and column, without the empty ones; how many rows are of no study.

    Args:
        path: the file.
        studies: those whose cells are wanted.
        everyone: all studies of the dataset; gone through where a row is of none of `studies`.

    Raises:
        DataError: the table cannot be read, has no key column or no other, no row of one of the
            studies, or rows of one that disagree.
    """
    rows, key, names = read_keyed_rows(path, "a column for each that is known of patients")
    of_key = studies_by(key, studies)
    cells: defaultdict[str, defaultdict[str, dict[int, str]]]
    cells = defaultdict(lambda: defaultdict(dict))
    strangers = []
    for number, row in rows.items():
        study = of_key.get(row[key])
        if study is None:
            strangers.append(row[key])
            continue
        for name in names:
            cell = row[name].strip()
            if not is_empty(cell):
                cells[study][name][number] = cell
    if not cells:
        raise no_row_of_theirs(path, key, studies)
    known = studies_by(key, list(everyone)) if strangers else {}
    is_averaged = key == "image"
    return {
        study: {
            name: _one(own, f"{path.name}: study {study}, {name!r}", is_averaged)
            for name, own in row.items()
        }
        for study, row in cells.items()
    }, sum(each not in known for each in strangers)


def is_empty(cell: str) -> bool:
    """Whether a cell says that nothing is known, as R, pandas and databases write it."""
    return cell.casefold() in _EMPTY


def _one(cells: Mapping[int, str], where: str, is_averaged: bool) -> str:
    """One cell of several, by line: what all of them say, or the mean of numbers of images."""
    told = list(cells.values())
    if len(set(told)) == 1:
        return told[0]
    if is_averaged and all(map(is_number, told)):
        return repr(sum(map(float, told)) / len(told))
    lines = ", ".join(map(str, list(cells)[:_MOST_LINES])) + (", ..." * (len(cells) > _MOST_LINES))
    raise DataError(f"{where} has {len(set(told))} different values (lines {lines}); give one")
