"""A table of studies beside a folder of images: what a lab has when it has no DICOM.

`.csv` or `.tsv` with a header line, or `.jsonl` with one object per line. Columns:

| column | holds |
|---|---|
| `study` | name of the study; the rows that share it are one study |
| `patient` | who it is of, the same in every study of that patient: splits are made by it |
| `image`, `images` | one path, or several separated by `;` (in JSON a list); also of videos |
| `report` | the report: becomes the answer of a report question |
| `question`, `answer` | one question of the study |
| `options` | the answers that it admits, separated by `;` (in JSON a list): makes it closed |
| `task`, `topic` | `open`, `closed`, `report` or `recognition`; what scores are grouped by |
| `modality` | a label: what made the images, as `DX` or `CT`; empty or `US` is ultrasound |
| `label:NAME` | the label NAME of the study, as `label:site` |

`study` and `patient` are required, and so is something to learn from: images, a report, or question
and answer. Any other column is an error, since a column that is ignored is a column misspelt; where
`--columns` says what the columns of a foreign table mean, its others are not read. The
rows of a study add up: images in the order in which they come first, each once, and one turn for
each question. What they say of patient, report and labels must agree; a row may leave it out. A
study of which one row is wrong is quarantined whole.

Image paths are relative to the folder of images, which is that of the table unless another is
given. A path that ends as a video does (`sonoray.ingest.sources.cine`) stands for frames of it,
chosen as the configuration's section `video` says.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from sonoray.errors import DataError
from sonoray.files.spreadsheet import describe_damage, find_damage
from sonoray.files.table_columns import (
    LABEL,
    Fields,
    map_columns,
    propose,
    read_columns,
    renamed,
    with_hint,
)
from sonoray.images.decode import DEFAULT_LIMITS, ImageLimits
from sonoray.images.loops import list_parts
from sonoray.images.sandbox import GuardedPool
from sonoray.images.video import VideoConfig
from sonoray.ingest.sources.cine import CineUnit, decoding, digested, guard_of_videos, is_video
from sonoray.ingest.sources.inputs import (
    Entry,
    Item,
    columns_of,
    digest_files,
    find_files,
    load_image,
    parse_item,
    read_fields,
    unusable,
)
from sonoray.ingest.units import Guard, Listed, Unit, read_source
from sonoray.study.contract import Task, Turn
from sonoray.study.raw import RawStudy

REPORT_QUESTION, OTHER_REPORT_QUESTION = "请写出这次超声检查的报告。", "请写出这次检查的报告。"
COLUMNS = (
    "study",
    "patient",
    "image",
    "images",
    "report",
    "question",
    "answer",
    "options",
    "task",
    "topic",
    "modality",
)
_IDENTIFIERS = ("study", "patient")
_CONTENT = ("image", "images", "report", "question")
_GUESSED = ("study", "patient", "image", "report", "question", "answer", "label:site")
"""Columns that `--columns` is proposed for."""


def _to_text(value: Any) -> Any:  # noqa: ANN401 - pydantic checks what comes out
    """Read a number as its digits and nothing as an empty text."""
    if value is None:
        return ""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _to_list(value: Any) -> Any:  # noqa: ANN401 - pydantic checks what comes out
    """Split a text at semicolons, those of a Chinese keyboard too."""
    if isinstance(value, str):
        return [part for part in map(str.strip, value.replace("；", ";").split(";")) if part]
    return [] if value is None else value


_Text = Annotated[str, StringConstraints(strip_whitespace=True), BeforeValidator(_to_text)]
_List = Annotated[list[_Text], BeforeValidator(_to_list)]


class _Row(Item):
    """One row."""

    study: _Text
    patient: _Text = ""
    image: _Text = ""
    images: _List = Field(default_factory=list)
    report: _Text = ""
    question: _Text = ""
    answer: _Text = ""
    options: _List = Field(default_factory=list)
    task: Annotated[
        Literal["", "open", "closed", "report", "recognition"], BeforeValidator(_to_text)
    ] = ""
    topic: _Text = ""
    modality: _Text = ""
    labels: dict[str, _Text] = Field(default_factory=dict)
    """From the columns `label:NAME`, and `modality`."""

    @model_validator(mode="before")
    @classmethod
    def _gather_labels(cls, values: Fields) -> Fields:
        labels = {k.removeprefix(LABEL): v for k, v in values.items() if k.startswith(LABEL)}
        return {**values, "labels": {"modality": values.get("modality")} | labels}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.study:
            raise ValueError("study is empty")
        if bool(self.question) != bool(self.answer):
            raise ValueError(f"{'answer' if self.question else 'question'} is empty")
        if not self.question and (self.options or self.task or self.topic):
            raise ValueError("options, task and topic belong to a question, which is empty")
        return self


class TableSource:
    """Reads a table of studies."""

    public = False

    def __init__(
        self,
        path: Path,
        images: Path | None = None,
        name: str = "table",
        video: VideoConfig | None = None,
        *,
        limits: ImageLimits = DEFAULT_LIMITS,
        columns: Sequence[str] = (),
    ) -> None:
        """Read the table; no image is opened.

        Args:
            path: `.csv`, `.tsv` or `.jsonl`.
            images: folder that the images' paths are relative to; by default that of the table.
            name: the dataset's name.
            video: which frames are taken of videos, and what is accepted.
            limits: what is accepted as an image.
            columns: what its columns are called, see `table_columns.read_columns`.

        Raises:
            ConfigError: `columns` is malformed.
            DataError: the table cannot be read, or its columns are not as above.
        """
        self.name = name
        self._path = path
        self._limits = limits
        self._images = path.parent if images is None else images
        self._video = VideoConfig() if video is None else video
        self._studies: dict[str, list[Entry[_Row]]] = {}
        self._nameless: list[Entry[_Row]] = []
        self._columns = read_columns(columns, (*COLUMNS, LABEL))
        rows = _read_fields(path, self._columns)
        damage = {c: find_damage(_identifier(row, c) for row in rows) for c in _IDENTIFIERS}
        for fields in rows:
            study = _identifier(fields, "study")
            entry = _refuse_damage(_parse(fields), fields, damage, self._columns)
            # several studies may have got one damaged name: then each row stands for itself
            if study and study not in damage["study"]:
                self._studies.setdefault(study, []).append(entry)
            else:
                self._nameless.append(entry)

    def __len__(self) -> int:
        """Number of studies that `iter_studies` yields."""
        return len(self._studies) + len(self._nameless)

    def config(self) -> dict[str, Any]:
        """What the columns are called, and what decides about frames where there are videos."""
        frames = decoding(self._video) if any(map(is_video, self._all_names())) else {}
        return {"columns": self._columns, **frames} if self._columns else frames

    def input_digest(self) -> str:
        """Sha256 (hex) over the table and the images that it names."""
        found = find_files(self._images, self._all_names())
        videos = digested({n: list_parts(path) for n, path in found.items() if is_video(n)})
        images = {name: path for name, path in found.items() if not is_video(name)}
        return digest_files(
            {self._path.name: self._path},
            (images, self._limits.max_bytes),
            (videos, self._video.max_bytes),
        )

    @property
    def guard(self) -> Guard:
        """What the processes that decode videos may take."""
        return guard_of_videos(self._video)

    def iter_units(self, pool: GuardedPool) -> Iterator[Unit]:
        """Yield one unit per name in the order of their first rows, then rows without one."""
        del pool
        for name in self._studies:
            yield CineUnit(listed=self._study(name), videos=self._videos(name), config=self._video)
        for entry in self._nameless:
            yield Listed(study=unusable(entry.ref, entry.problem, is_row=True))

    def iter_studies(self) -> Iterator[RawStudy]:
        """Yield one study per name in the order of their first rows, then rows without one."""
        return read_source(self)

    def _all_names(self) -> list[str]:
        """Paths of all images and videos that the table names, in order."""
        return [name for study in self._studies for name in self._names(study)]

    def _names(self, study: str) -> list[str]:
        """Those of a study, each once."""
        rows = (entry.value for entry in self._studies[study] if entry.value)
        return list(dict.fromkeys(name for row in rows for name in _paths(row)))

    def _videos(self, study: str) -> dict[str, tuple[Path, ...]]:
        """Files of the videos of a study that are there."""
        found = find_files(self._images, filter(is_video, self._names(study)))
        return {name: list_parts(path) for name, path in found.items()}

    def _study(self, study: str) -> RawStudy:
        entries = self._studies[study]
        rows = [entry.value for entry in entries if entry.value]
        problem = next((entry.problem for entry in entries if entry.problem), "")
        problem = problem or _find_conflict(study, rows)
        return RawStudy(
            ref=study,
            patient_ref=next((row.patient for row in rows if row.patient), study),
            images=tuple(load_image(self._images, name) for name in self._names(study)),
            turns=() if problem else _turns(rows),
            labels={name: value for row in rows for name, value in row.labels.items() if value},
            provenance=f"{self.name}, {_line(entries[0].ref)}",
            problem=problem,
        )


def _read_fields(path: Path, wanted: Mapping[str, str]) -> list[Entry[Fields]]:
    """Read the rows under our names and check their columns.

    Args:
        path: the table.
        wanted: as `table_columns.read_columns` returns it.

    Raises:
        DataError: the table is unreadable, or a column is missing or unknown.
    """
    table = f"table {str(path)!r}"
    entries = read_fields(path, table)
    header = columns_of(entries)
    if wanted:
        columns = map_columns(wanted, header, table)
        # a table that is not made for this has columns of its own, which nobody misspelt
        ours = [column for column in header if column in COLUMNS or column.startswith(LABEL)]
        kept = {*ours, *columns}

        def under_our_names(fields: Fields) -> Fields:
            return {k: v for k, v in renamed(fields, columns).items() if k in kept}

        entries = [
            entry if entry.value is None else replace(entry, value=under_our_names(entry.value))
            for entry in entries
        ]
        header = columns_of(entries)
    _check_columns(path, header)
    return entries


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    """Refuse a table that lacks a column or has one that nothing reads.

    Raises:
        DataError: the message names the column and what to change.
    """
    labels = [column for column in columns if column.startswith(LABEL)]
    if unknown := [column for column in columns if column not in (*COLUMNS, *labels)]:
        listed = ", ".join(with_hint(column, COLUMNS) for column in unknown)
        raise DataError(
            f"table {str(path)!r} has unknown columns {listed}; known "
            f"are {', '.join(COLUMNS)}, and label:NAME for anything else{_proposal(columns)}"
        )
    missing = [column for column in ("study", "patient") if column not in columns]
    if "question" in columns and "answer" not in columns:
        missing.append("answer")
    if not set(_CONTENT) & set(columns):
        missing.append(f"one of {', '.join(_CONTENT)}")
    if missing:
        raise DataError(
            f"table {str(path)!r} lacks the columns {', '.join(missing)}; it has "
            f"{', '.join(columns)}{_proposal(columns)}"
        )
    if LABEL in labels:
        raise DataError(f"table {str(path)!r} has a column {LABEL!r} without a name; add it")


def _proposal(columns: Sequence[str]) -> str:
    """What to give where the columns seem to have other names; empty where they do not."""
    wanted = [name for name in _GUESSED if name not in columns]
    option = propose([column for column in columns if column not in COLUMNS], wanted)
    return f"; if its columns mean these, add {option}" if option else ""


def _parse(fields: Entry[Fields]) -> Entry[_Row]:
    entry: Entry[_Row] = Entry(ref=fields.ref, value=None, problem=fields.problem)
    if fields.value is not None and not fields.problem:
        entry = parse_item(fields.value, _Row, fields.ref)
    return replace(entry, problem=entry.problem.replace(entry.ref, _line(entry.ref)))


def _identifier(fields: Entry[Fields], column: str) -> str:
    value = _to_text((fields.value or {}).get(column))
    return value.strip() if isinstance(value, str) else ""


def _refuse_damage(
    entry: Entry[_Row],
    fields: Entry[Fields],
    damage: Mapping[str, Mapping[str, str]],
    called: Mapping[str, str],
) -> Entry[_Row]:
    """Give a row a problem where a spreadsheet changed one of its identifiers."""
    for column, reasons in damage.items():
        reason = reasons.get(_identifier(fields, column))
        if reason and not entry.problem:
            return replace(
                entry,
                problem=describe_damage(
                    reason, f"{_line(entry.ref)}, column {called.get(column, column)}"
                ),
            )
    return entry


def _line(ref: str) -> str:
    """Where a row stands, without the name of the file, which may be a patient's."""
    return f"line {ref.rpartition(':')[2]}"


def _paths(row: _Row) -> list[str]:
    return [*([row.image] if row.image else []), *row.images]


def _find_conflict(study: str, rows: Sequence[_Row]) -> str:
    """What the rows of a study do not agree on, as `reason: detail`; empty where they do."""
    if not any(row.patient for row in rows):
        return f"no_patient: study {study!r} names no patient; splits are made by patient"
    said: dict[str, set[str]] = {}
    for row in rows:
        facts = {"patient": row.patient, "report": row.report}
        facts |= {f"{LABEL}{name}": value for name, value in row.labels.items()}
        for column, value in facts.items():
            if value:
                said.setdefault(column, set()).add(value)
    answers: dict[str, set[str]] = {}
    for row in rows:
        answers.setdefault(row.question, set()).add(row.answer)
    if conflicts := [column for column, values in said.items() if len(values) > 1]:
        return f"conflicting_rows: the rows of study {study!r} disagree on {', '.join(conflicts)}"
    if any(len(values) > 1 for values in answers.values()):
        return f"conflicting_rows: study {study!r} answers one question in two ways; keep one"
    return ""


def _turns(rows: Sequence[_Row]) -> tuple[Turn, ...]:
    """One turn per question, in order, and the report last."""
    is_other = any(row.labels["modality"] not in ("", "US") for row in rows)
    asked = OTHER_REPORT_QUESTION if is_other else REPORT_QUESTION
    turns = [_turn(row) for row in rows if row.question]
    reports = [row.report for row in rows if row.report]
    turns += [Turn(question=asked, answer=r, task=Task.REPORT, topic="report") for r in reports]
    return tuple(dict.fromkeys(turns))


def _turn(row: _Row) -> Turn:
    task = Task(row.task or (Task.CLOSED if row.options else Task.OPEN))
    return Turn(
        question=row.question,
        answer=row.answer,
        task=task,
        options=tuple(row.options),
        topic=row.topic or task.value,
    )
