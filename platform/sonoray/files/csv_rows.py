"""Rows of a user's CSV file: every cell under the name of its column, or why that is not so."""

import csv
from pathlib import Path

from sonoray.errors import DataError


def read_csv_rows(path: Path) -> tuple[dict[int, dict[str, str]], list[str]]:
    """Read a CSV file in UTF-8.

    Returns:
        The rows by the number of their (last) line, without empty lines; the names of the columns.

    Raises:
        DataError: it cannot be read, a column has no name or that of another one, or a row has more
            or fewer cells than the first line. What cells hold is not told, nor what the first line
            holds: it may be of a patient.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            cells = dict((reader.line_num, row) for row in reader if row)  # noqa: C402 - no static key
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"table {str(path)!r} cannot be read ({error}); give a UTF-8 CSV") from None
    if double := [at for at, name in enumerate(header, 1) if name and header.count(name) > 1]:
        raise DataError(
            f"table {str(path)!r} line 1 has one name for the columns {double[0]} and {double[1]}; "
            "give each its own"
        )
    if any(not name.strip() for name in header) and cells:
        raise DataError(
            f"table {str(path)!r} line 1 has a column without a name; name it, or write the table "
            "without its index"
        )
    for number, row in cells.items():
        if len(row) != len(header):
            raise DataError(
                f"table {str(path)!r} line {number} has {len(row)} cells and line 1 has "
                f"{len(header)}; correct it, and quote cells that hold a comma"
            )
    return {number: dict(zip(header, row, strict=True)) for number, row in cells.items()}, header
