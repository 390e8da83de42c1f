"""A folder of pages: images, questions, and what is known of the pages.

- `questions.jsonl`: a question a line: `page` (an image, its path in the folder), `question`,
  `answer`, `task` (entity, table, numeric, choice or short) and, of a choice, `options`;
- `pages.jsonl`, which may be missing: a page a line: `page`, `kind` and `strength` of its capture,
  `record` (pages of one report, or of one patient), `lines` (its true text, lines of cells) and
  `fields` (by label, the value).

What `sonoray documents make` writes, and what somebody with pages of his own writes.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError

from sonoray.config.model import Config
from sonoray.documents.document_config import QuestionTask
from sonoray.documents.made_folder import mark_made, write_made
from sonoray.documents.report_page import Line, PageQuestion
from sonoray.errors import DataError
from sonoray.files.text_files import read_text
from sonoray.images.decode import Pixels, RejectedImageError, decode_image, encode_png

QUESTIONS, PAGES = "questions.jsonl", "pages.jsonl"
IMAGES = "pages"
"""Folder of the images that are made."""
OWN = "own"
"""Kind of a page of which nothing is said."""
_Text = Annotated[str, Field(min_length=1, pattern=r"\S")]
_L = TypeVar("_L", bound=Config)


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentPage:
    """An image of a page, with its questions."""

    name: str
    """Path of the image in the folder."""
    data: bytes = field(repr=False)
    kind: str
    strength: float
    record: str
    lines: tuple[Line, ...]
    """True text; empty where it is not known."""
    fields: Mapping[str, str]
    questions: tuple[PageQuestion, ...]


class _QuestionLine(Config):
    page: _Text
    question: _Text
    answer: _Text
    task: QuestionTask
    options: tuple[_Text, ...] = ()


class _PageLine(Config):
    page: _Text
    kind: _Text = OWN
    strength: float = Field(default=0, ge=0, le=1)
    record: str = ""
    lines: tuple[tuple[_Text, ...], ...] = ()
    fields: dict[str, str] = Field(default_factory=dict)


def read_pages(folder: Path) -> list[DocumentPage]:
    """Read a folder; every image is looked at.

    Raises:
        DataError: there is no such folder, page or question, a line is none, an image is outside
            the folder or cannot be read.
    """
    if not folder.is_dir():
        raise DataError(f"no folder {str(folder)!r}; make one with sonoray documents make")
    if not (folder / QUESTIONS).is_file():
        raise DataError(
            f"folder {str(folder)!r} has no {QUESTIONS}; write one line of JSON for each question: "
            '{"page": "a.png", "question": "?", "answer": "!", "task": "entity"}'
        )
    questions: dict[str, list[PageQuestion]] = {}
    for number, line in _lines(folder / QUESTIONS):
        asked = _parse(_QuestionLine, folder / QUESTIONS, number, line)
        if asked.options and asked.answer not in asked.options:
            raise DataError(
                f"{QUESTIONS} line {number}: the answer is none of the {len(asked.options)} "
                "options; add it"
            )
        if (asked.task == "choice") != (len(set(asked.options)) > 1):
            raise DataError(
                f"{QUESTIONS} line {number}: a question of task 'choice' has two or more different "
                f"options, and no other has any; this is a {asked.task!r}"
            )
        questions.setdefault(asked.page, []).append(
            PageQuestion(
                question=asked.question,
                answer=asked.answer,
                task=asked.task,
                options=asked.options,
            )
        )
    told: dict[str, _PageLine] = {}
    if (folder / PAGES).is_file():
        for number, line in _lines(folder / PAGES):
            page = _parse(_PageLine, folder / PAGES, number, line)
            if page.page in told:
                raise DataError(
                    f"{PAGES} line {number}: page {page.page!r} has a line already; leave one"
                )
            told[page.page] = page
    names = list(dict.fromkeys([*told, *questions]))
    return [
        _page(folder, told.get(name) or _PageLine(page=name), questions.get(name, ()))
        for name in names
    ]


def write_pages(folder: Path, pages: Iterable[tuple[DocumentPage, Pixels]]) -> list[DocumentPage]:
    """Write pages into a folder that is there, each as it comes, then their two files.

    Raises:
        DataError: the folder holds files of these names that were not written here.
        OSError: it cannot be written.
    """
    mark_made(folder, (QUESTIONS, PAGES), IMAGES)
    written: list[DocumentPage] = []
    for page, pixels in pages:
        (folder / page.name).parent.mkdir(parents=True, exist_ok=True)
        (folder / page.name).write_bytes(encode_png(pixels))
        written.append(page)
    known: list[dict[str, Any]] = [
        {
            "page": page.name,
            "kind": page.kind,
            "strength": page.strength,
            "record": page.record,
            "lines": page.lines,
            "fields": dict(page.fields),
        }
        for page in written
    ]
    asked: list[dict[str, Any]] = [
        {
            "page": page.name,
            "question": each.question,
            "answer": each.answer,
            "task": each.task,
            **({"options": each.options} if each.options else {}),
        }
        for page in written
        for each in page.questions
    ]
    write_made(folder, {PAGES: _to_lines(known), QUESTIONS: _to_lines(asked)})
    return written


def decode_page(name: str, data: bytes) -> Pixels:
    """The pixels of a page.

    Raises:
        DataError: the file is no intact image.
    """
    try:
        return decode_image(data)
    except RejectedImageError as error:
        raise DataError(f"page {name!r} cannot be read: {error}") from None


def _page(folder: Path, told: _PageLine, questions: Sequence[PageQuestion]) -> DocumentPage:
    path = PurePosixPath(told.page)
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"page {told.page!r} is not in the folder; give its path in there")
    try:
        data = (folder / path).read_bytes()
    except OSError as error:
        raise DataError(
            f"page {told.page!r} of {str(folder)!r} cannot be read ({error.strerror}); check "
            f"{QUESTIONS} and {PAGES}"
        ) from None
    decode_page(told.page, data)
    return DocumentPage(
        name=told.page,
        data=data,
        kind=told.kind,
        strength=told.strength,
        record=told.record or told.page,
        lines=told.lines,
        fields=told.fields,
        questions=tuple(questions),
    )


def _to_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _lines(path: Path) -> list[tuple[int, str]]:
    lines = enumerate(
        read_text(path).split("\n"), 1
    )  # a text may hold other line breaks, as U+2028
    return [(number, line) for number, line in lines if line.strip()]


def _parse(form: type[_L], path: Path, number: int, line: str) -> _L:
    """A line as what it should be; the text of a page is not repeated in an error."""
    try:
        return form.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the line"
        raise DataError(
            f"{path.name} line {number}: {place}: {first['msg'].lower()}; mend it"
        ) from None
