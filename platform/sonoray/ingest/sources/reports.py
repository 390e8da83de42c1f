"""A table of reports beside a DICOM archive: `.csv`, `.tsv` or JSON lines, UTF-8 or GB18030.

Columns: `study_uid` (Study Instance UID) or `accession` (Accession Number), and `report`, or what
`--columns` names for these (`sonoray.files.table_columns`). Others are not looked at. Where a row
has both identifiers, the first finds the study and the second must not contradict it: a table that
was joined wrongly would give one patient another's report. Both identifiers stay in memory: they
find the study's report and go nowhere.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, StringConstraints

from sonoray.errors import DataError
from sonoray.files.spreadsheet import SHORTENED, describe_damage, find_damage
from sonoray.files.table_columns import map_columns, propose, read_columns, renamed
from sonoray.ingest.sources.inputs import Entry, Item, columns_of, parse_item, read_fields

_KEYS = ("study_uid", "accession")
COLUMNS = ("report", *_KEYS)


def _to_text(value: Any) -> Any:  # noqa: ANN401 - pydantic checks what comes out
    return "" if value is None else value


_Text = Annotated[str, StringConstraints(strip_whitespace=True), BeforeValidator(_to_text)]


class _Row(Item):
    """One row."""

    study_uid: _Text = ""
    accession: _Text = ""
    report: _Text = ""


class Reports:
    """The reports of a table, by study."""

    def __init__(self, path: Path, columns: Sequence[str] = ()) -> None:
        """Read the whole table.

        Args:
            path: the file.
            columns: what its columns are called, see `table_columns.read_columns`.

        Raises:
            ConfigError: `columns` is malformed.
            DataError: it is missing, no table, or lacks a column.
        """
        self._lines: dict[tuple[str, str], dict[_Row, int]] = {}
        """By identifier: the different rows that it finds, each with its first line."""
        self._used: set[tuple[str, str]] = set()
        self._patients: dict[str, set[str]] = {}
        """By accession number: who uses it."""
        self.refused: dict[int, str] = {}
        """By line: what is wrong with a row that cannot be used; `find` adds to it."""
        self._wanted = read_columns(columns, COLUMNS)
        entries = list(_read_rows(path, self._wanted))
        rows = [entry.value for entry in entries if entry.value is not None]
        damage = {name: find_damage(getattr(row, name) for row in rows) for name in _KEYS}
        for entry in entries:
            line = int(entry.ref.rpartition(":")[2])
            if entry.value is None:
                # the file's name may be a patient's
                self.refused[line] = entry.problem.replace(entry.ref, f"line {line}")
                continue
            row = entry.value
            damaged = [name for name in _KEYS if getattr(row, name) in damage[name]]
            if damaged:
                reason = damage[damaged[0]][getattr(row, damaged[0])]
                self.refused[line] = describe_damage(
                    reason, f"line {line}, column {self._called(damaged[0])}"
                )
                continue
            key = next(((name, getattr(row, name)) for name in _KEYS if getattr(row, name)), None)
            if key is None or not row.report:
                lacking = "identifier" if key is None else "report"
                self.refused[line] = f"malformed_row: line {line} has no {lacking}; complete it"
            else:
                self._lines.setdefault(key, {}).setdefault(row, line)

    def _called(self, name: str) -> str:
        """What the table calls one of our columns."""
        return self._wanted.get(name, name)

    def note_patient(self, patient: str, accessions: Iterable[str]) -> None:
        """Note that a patient uses these accession numbers; before the first `find`."""
        for accession in accessions:
            self._patients.setdefault(accession, set()).add(patient)

    def find(self, *, study_uid: str, accessions: Iterable[str]) -> tuple[str, str]:
        """Return the report of a study, empty if there is none, and why it cannot be told.

        An accession number that several patients use says of none of them which report is his:
        systems count from one again, and archives are joined.
        """
        numbers = set(accessions)
        texts = set[str]()
        for row, line in self._take("study_uid", study_uid).items():
            if self._contradicts(row, numbers):
                self.refused[line] = (
                    f"conflicting_identifiers: line {line} has the study_uid of one study and an "
                    "accession number that is not its own; correct one of them, or leave one out"
                )
            else:
                texts.add(row.report)
        is_named = bool(texts)
        for number in sorted(numbers):
            if len(self._patients.get(number, ())) < 2:
                texts |= {row.report for row in self._take("accession", number)}
            elif not is_named and self._take("accession", number):
                return "", (
                    "ambiguous_accession: several patients use the accession number of the "
                    "study's report; name the study by study_uid in the table"
                )
        if len(texts) > 1:
            return "", f"conflicting_reports: {len(texts)} different reports; keep one"
        return next(iter(texts), ""), ""

    def find_unused(self) -> dict[int, str]:
        """By line, ascending: the problem of each report that no study asked for."""
        noted = {number.lstrip("0") for number in self._patients}
        problems = {}
        for (name, value), lines in self._lines.items():
            if (name, value) in self._used:
                continue
            for line in lines.values():
                if name == "accession" and value.isdecimal() and value.lstrip("0") in noted:
                    problems[line] = describe_damage(
                        SHORTENED, f"line {line}, column {self._called(name)}"
                    )
                else:
                    problems[line] = (
                        f"no_images: no study takes the report of line {line}; its identifier is "
                        "not among the objects, or is an accession number of several patients"
                    )
        return dict(sorted(problems.items()))

    def _contradicts(self, row: _Row, numbers: Set[str]) -> bool:
        """Whether the row's accession number is another study's, or this one has others alone."""
        is_foreign = bool(row.accession) and row.accession not in numbers
        return is_foreign and (bool(numbers) or row.accession in self._patients)

    def _take(self, name: str, value: str) -> dict[_Row, int]:
        """The different rows under an identifier, which count as asked for."""
        self._used.add((name, value))
        return dict(self._lines.get((name, value), {}))


def _read_rows(path: Path, wanted: Mapping[str, str]) -> Iterator[Entry[_Row]]:
    """Yield the rows; one that breaks its format has a problem and no value.

    Raises:
        DataError: the table is unreadable, or a column is missing.
    """
    table = f"table of reports {str(path)!r}"
    entries = read_fields(path, table)
    header = columns_of(entries)
    columns = map_columns(wanted, header, table)
    _check_columns(table, header, {*header, *columns})
    for entry in entries:
        if entry.problem or entry.value is None:
            yield Entry(ref=entry.ref, value=None, problem=entry.problem)
        else:
            yield parse_item(renamed(entry.value, columns), _Row, entry.ref)


def _check_columns(table: str, header: Sequence[str], known: Set[str]) -> None:
    """Refuse a table without reports, or without anything that tells whose they are.

    Raises:
        DataError: the message shows what to give where the columns have other names.
    """
    missing = [] if "report" in known else ["report"]
    if known.isdisjoint(_KEYS):
        missing.append(" or ".join(_KEYS))
    if missing:
        wanted = [name for name in COLUMNS if name not in known]
        option = propose([column for column in header if column not in COLUMNS], wanted)
        how = (
            f"if its columns mean these, add {option}"
            if option
            else ("name its columns with --columns report=COLUMN,accession=COLUMN")
        )
        raise DataError(
            f"{table} lacks the columns {', '.join(missing)}; it has {', '.join(header)}; {how}"
        )
