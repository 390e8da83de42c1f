"""A table of reports beside an archive: CSV or JSON lines, UTF-8 or GB18030.

Columns: `study_uid` (Study Instance UID) or `accession` (Accession Number), and `report`; where a
row has both identifiers, the first counts. Others are not looked at. Both identifiers stay in
memory: they find the study's report and go nowhere.
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sonoray.errors import DataError
from sonoray.text_files import read_text

_KEYS = ("study_uid", "accession")
_SUFFIXES = (".csv", ".jsonl")


class Reports:
    """The reports of a table, by study."""

    def __init__(self, path: Path) -> None:
        """Read the whole table.

        Raises:
            DataError: it is missing, no CSV or JSON lines, or lacks a column.
        """
        self._texts: dict[tuple[str, str], dict[str, int]] = {}
        self._used: set[tuple[str, str]] = set()
        self.malformed: dict[int, str] = {}
        """By line: what is wrong with a row that cannot be used."""
        for line, row in _read_rows(path):
            fields = {name: _clean(row.get(name)) for name in (*_KEYS, "report")}
            key = next(((name, fields[name]) for name in _KEYS if fields[name]), None)
            if key is None or not fields["report"]:
                lacking = "identifier" if key is None else "report"
                self.malformed[line] = f"malformed_row: line {line} has no {lacking}; complete it"
            else:
                self._texts.setdefault(key, {}).setdefault(fields["report"], line)

    def find(self, *, study_uid: str, accession: str) -> tuple[str, ...]:
        """Return the different reports of a study; more than one contradict each other."""
        texts: dict[str, int] = {}
        for key in (("study_uid", study_uid), ("accession", accession)):
            if key in self._texts:
                self._used.add(key)
                texts.update(self._texts[key])
        return tuple(texts)

    def unused_lines(self) -> list[int]:
        """Lines of reports that no study asked for, ascending."""
        unused = (texts for key, texts in self._texts.items() if key not in self._used)
        return sorted(line for texts in unused for line in texts.values())


def _read_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield line number and fields of each row; a JSON line that is no object has none."""
    if path.suffix.lower() not in _SUFFIXES:
        raise DataError(f"table of reports {str(path)!r} is none of {', '.join(_SUFFIXES)}")
    text = read_text(path)
    if path.suffix.lower() == ".jsonl":
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip():
                yield number, _parse_object(line)
        return
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    names = reader.fieldnames or ()
    if "report" not in names or not set(_KEYS) & set(names):
        raise DataError(
            f"table of reports {str(path)!r} has the columns {', '.join(names) or 'none'}; it "
            f"needs report, and {' or '.join(_KEYS)}"
        )
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise DataError(
            f"table of reports {str(path)!r}, line {reader.reader.line_num}: {error}; correct it"
        ) from None


def _parse_object(line: str) -> Mapping[str, Any]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _clean(value: Any) -> str:  # noqa: ANN401 - whatever the table holds
    return value.strip() if isinstance(value, str) else ""
