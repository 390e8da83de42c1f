"""Answers to closed questions as a table: what somebody, or a second opinion, corrects.

A CSV with the columns `study_id`, `topic` and `answer`, one answer a row. What it corrects and what
not is `sonoray relabel`'s business.
"""

import csv
from collections.abc import Mapping
from pathlib import Path

from sonoray.errors import DataError
from sonoray.files.csv_rows import read_csv_rows

COLUMNS = ("study_id", "topic", "answer")
"""Of a table of corrections."""

Corrections = Mapping[str, Mapping[str, str]]
"""By study id and topic, the answer."""


def read_corrections(table: Path) -> dict[str, dict[str, str]]:
    """Read a table of corrections.

    Raises:
        DataError: see `read_csv_rows`; or it lacks a column, or corrects one answer twice.
    """
    rows, columns = read_csv_rows(table)
    if not rows or set(COLUMNS).difference(columns):
        raise DataError(
            f"table {str(table)!r} has {len(rows)} rows and columns {columns}; it needs rows and "
            f"the columns {', '.join(COLUMNS)}"
        )
    found: dict[str, dict[str, str]] = {}
    for number, row in rows.items():
        study, topic, answer = (row[column].strip() for column in COLUMNS)
        if topic in found.setdefault(study, {}):
            raise DataError(
                f"{table.name} line {number}: study {study!r} has an answer to {topic!r} already; "
                "leave one"
            )
        found[study][topic] = answer
    return found


def write_corrections(table: Path, answers: Mapping[str, str], topic: str) -> None:
    """Write answers to one question, by study id, as a table of corrections."""
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows([study, topic, answer] for study, answer in sorted(answers.items()))
