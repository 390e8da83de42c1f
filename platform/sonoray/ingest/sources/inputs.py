"""What sources that read files share: safe paths, rows, items, digests.

A name that stands in a table or a JSON file comes from outside. It counts as a path below the given
folder, whatever it looks like: one that is absolute, names a drive or goes up is refused. Links
that lie in the folder are followed: data versioning tools keep the files elsewhere and link them,
and whoever can put a link there can put the file there.

An item or a row that breaks its format becomes an `Entry` with a problem. Problems say where and
what is wrong and never quote the value: it may be a patient's text.
"""

import csv
import hashlib
import io
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, RootModel, ValidationError

from sonoray.errors import ConfigError, DataError
from sonoray.files.text_files import read_text
from sonoray.images.decode import RejectedImageError
from sonoray.study.raw import RawImage, RawStudy

Row = Mapping[str, str]
"""A row of a table, by column."""
DELIMITERS: Mapping[str, str] = {".csv": ",", ".tsv": "\t"}
"""What separates the fields of a table, by the ending of its name."""

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")


class Item(BaseModel):
    """Base of what a source reads from one item or row; keys that it does not name are ignored."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry(Generic[T]):
    """One item or row of a file: its value, or why it has none."""

    ref: str
    """Where it stands: `file[number]`, counted from 0, of a JSON list, `file:line` of lines."""
    value: T | None
    """What was read; for a row with too few fields, as far as they go."""
    problem: str = ""
    """`reason: detail`; empty where the value is whole."""


def find_file(folder: Path, name: str) -> Path:
    """Return the file called `name` below `folder`; a backslash separates as a slash does.

    Raises:
        RejectedImageError: `outside_folder` or `missing_file`.
    """
    relative = PurePosixPath(name.replace("\\", "/"))
    if relative.is_absolute() or PureWindowsPath(name).drive or ".." in relative.parts:
        raise RejectedImageError(
            f"outside_folder: {name!r} leads out of the folder {folder.name!r}; "
            "name files relative to it, or give the folder that they are relative to with --images"
        )
    path = folder / relative
    try:
        found = bool(relative.name) and path.is_file()
    except OSError:  # a name that is too long, or a folder that may not be entered
        found = False
    if not found:
        raise RejectedImageError(
            f"missing_file: no file {name!r} below {folder.name!r}; give the folder that it is "
            "relative to with --images, copy it there, or remove it from the list"
        )
    return path


def find_files(folder: Path, names: Iterable[str]) -> dict[str, Path]:
    """Map those of `names` that `find_file` finds to their files, each once, in order."""
    found: dict[str, Path] = {}
    for name in names:
        try:
            found[name] = find_file(folder, name)
        except RejectedImageError:  # the study that needs it says so
            continue
    return found


def load_image(folder: Path, name: str, *, labels: Mapping[str, str] | None = None) -> RawImage:
    """Find the image called `name` below `folder`; one that is not there carries its problem.

    Ingest reads it, in its threads and within its limits.
    """
    try:
        path = find_file(folder, name)
    except RejectedImageError as error:
        return RawImage(ref=name, data=b"", problem=str(error))
    return RawImage(ref=name, data=path, labels=labels or {})


def check_split(split: str | None) -> None:
    """Check what `--split` says to a set whose publisher has one split.

    Raises:
        ConfigError: it is not `published`.
    """
    if split not in (None, "published"):
        raise ConfigError(f"--split {split!r} is none of this set; give published, or leave it out")


def unusable(ref: str, problem: str, *, is_row: bool = False) -> RawStudy:
    """Return a study that stands for an item of which nothing can be used, or for a table's row."""
    return RawStudy(ref=ref, patient_ref=ref, images=(), turns=(), problem=problem, is_row=is_row)


def digest_files(files: Mapping[str, Path], *limited: tuple[Mapping[str, Path], int]) -> str:
    """Sha256 (hex) over the names and contents of files, in order.

    Args:
        files: read whatever their size, as tables.
        limited: others, as images, with the most bytes that one of them may have: of one above
            that the size counts, for which it will be refused.
    """
    digest = hashlib.sha256()
    for group, limit in ((files, sys.maxsize), *limited):
        for name, path in group.items():
            digest.update(f"{name}\0{tell_content(path, limit)}\n".encode())
    return digest.hexdigest()


def tell_content(path: Path, max_bytes: int = sys.maxsize) -> str:
    """Sha256 (hex) of a file's content, or why it will be refused: its size, or the fault."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > max_bytes:
                return f"{size} bytes"
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return str(error.strerror)


def read_json(path: Path) -> Any:  # noqa: ANN401 - any JSON value
    """Read a JSON file.

    Raises:
        DataError: it is missing, in an unknown encoding or no JSON.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(
            f"file {str(path)!r} is no JSON: {error.msg} in line {error.lineno}, column "
            f"{error.colno}; correct it"
        ) from None
    except RecursionError:
        raise DataError(f"file {str(path)!r} is no JSON of items: it nests too deeply") from None


def read_items(path: Path, model: type[M]) -> list[Entry[M]]:
    """Read the items of a JSON list, or of the lines of a `.jsonl` file.

    Raises:
        DataError: the file is unreadable, holds no list, or nothing.
    """
    if path.suffix.lower() == ".jsonl":
        return [
            _parse_line(line, model, f"{path.name}:{number}")
            for number, line in enumerate(read_text(path).split("\n"), start=1)
            if line.strip()
        ]
    values = read_json(path)
    if not isinstance(values, list) or not values:
        found = "an empty list" if values == [] else type(values).__name__
        raise DataError(f"file {str(path)!r} holds {found}; expected is a JSON list of items")
    return parse_items(values, model, path.name)


def parse_items(values: Sequence[Any], model: type[M], name: str) -> list[Entry[M]]:
    """Check each value against `model`; `name` is that of the list."""
    return [parse_item(value, model, f"{name}[{i}]") for i, value in enumerate(values)]


def parse_item(value: Any, model: type[M], ref: str) -> Entry[M]:  # noqa: ANN401 - any JSON value
    """Check one value against `model`."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
        return Entry(ref=ref, value=model.model_validate(value))
    except UnicodeEncodeError:  # a JSON escape can write half of a character; Arrow cannot hold it
        problem = f"malformed_item: {ref} has half of a surrogate pair in a text; correct it"
        return Entry(ref=ref, value=None, problem=problem)
    except ValidationError as error:
        detail = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in detail["loc"])
        message = str(detail["msg"]).removeprefix("Value error, ")
        place = f"{ref}: {where}" if where else ref
        return Entry(ref=ref, value=None, problem=f"malformed_item: {place}: {message}")


def read_fields(path: Path, table: str) -> list[Entry[Mapping[str, Any]]]:
    """Read the rows of a `.csv`, `.tsv` or `.jsonl` file, whatever columns it has.

    Args:
        path: the file.
        table: what messages call it.

    Raises:
        DataError: the file is of another kind, or cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix in DELIMITERS:
        rows = read_csv(path, (), delimiter=DELIMITERS[suffix])
        return [Entry(ref=row.ref, value=row.value, problem=row.problem) for row in rows]
    if suffix != ".jsonl":
        raise DataError(f"{table} is no .csv, .tsv or .jsonl; save it as one of them")
    return [
        Entry(ref=item.ref, value=item.value.root if item.value else None, problem=item.problem)
        for item in read_items(path, RootModel[dict[str, Any]])
    ]


def columns_of(entries: Iterable[Entry[Mapping[str, Any]]]) -> list[str]:
    """All columns that the rows have, in order."""
    return list(dict.fromkeys(column for entry in entries for column in entry.value or {}))


def read_csv(path: Path, columns: Sequence[str], *, delimiter: str = ",") -> list[Entry[Row]]:
    """Read a CSV file with a header line; values are stripped.

    Args:
        path: the file.
        columns: those it must have; it may have others.
        delimiter: what separates the fields.

    Raises:
        DataError: the file is unreadable, has no rows, lacks a column or names one twice.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True, delimiter=delimiter)
    try:
        header = [name.strip() for name in next(reader)]
        lines = [(reader.line_num, fields) for fields in reader if any(map(str.strip, fields))]
    except csv.Error as error:
        raise DataError(
            f"table {str(path)!r} is not readable as CSV: {error} in line {reader.line_num}; "
            "correct it"
        ) from None
    if len(header) == 1 and (other := next((each for each in ";\t|" if each in header[0]), "")):
        raise DataError(
            f"table {str(path)!r} separates its columns with {other!r}; save it with {delimiter!r}"
        )
    if missing := [name for name in columns if name not in header]:
        raise DataError(
            f"table {str(path)!r} lacks the columns {', '.join(missing)}; its first line has "
            f"{', '.join(header)}"
        )
    if repeated := sorted({name for name in header if name and header.count(name) > 1}):
        raise DataError(f"table {str(path)!r} has the columns {', '.join(repeated)} twice")
    if not lines:
        raise DataError(f"table {str(path)!r} has no rows; export it again")
    return [_parse_row(path.name, line, header, fields) for line, fields in lines]


def _parse_row(name: str, line: int, header: Sequence[str], fields: Sequence[str]) -> Entry[Row]:
    ref, problem = f"{name}:{line}", ""
    if len(fields) != len(header):
        problem = (
            f"malformed_row: {ref} has {len(fields)} fields, its header {len(header)}; correct it"
        )
    row = {column: field.strip() for column, field in zip(header, fields, strict=False)}
    return Entry(ref=ref, value=row, problem=problem)


def _parse_line(line: str, model: type[M], ref: str) -> Entry[M]:
    try:
        value = json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        return Entry(ref=ref, value=None, problem=f"malformed_item: {ref} is no JSON; correct it")
    return parse_item(value, model, ref)
