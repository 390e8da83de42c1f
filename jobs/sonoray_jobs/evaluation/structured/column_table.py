"""A table of patient columns: a CSV file whose rows are studies or images."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from sonoray.errors import DataError
from sonoray.study.contract import Study
from sonoray_jobs.evaluation.encoding.targets import (
    is_number,
    no_row_of_theirs,
    read_keyed_rows,
    studies_by,
)


def read_table(path: Path, studies: Sequence[Study]) -> dict[str, dict[str, str]]:
    """Cells by study id and column, without the empty ones.

    Raises:
        DataError: the table cannot be read, has no key column or no other, no row of one of the
            studies, or words of one that disagree.
    """
    rows, key, names = read_keyed_rows(path, "a column for each that is known of patients")
    of_key = studies_by(key, studies)
    cells: defaultdict[str, defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        study = of_key.get(row[key] or "")
        for name in names if study is not None else ():
            if cell := (row[name] or "").strip():
                cells[study or ""][name].append(cell)
    if not cells:
        raise no_row_of_theirs(path, key, studies)
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
    raise DataError(f"{where} has {len(set(cells))} different values; give one")
