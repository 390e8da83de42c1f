"""Answers without a model: a label of the page that the question names, and what stands at it.

The baseline of `sonoray documents evaluate`, and the measure of how much of a page's structure OCR
keeps. It knows how reports are laid out (`label：value`, rows of a table, headings over texts), two
words of arithmetic, and the wordings by which `sonoray_jobs.evaluation.extraction.fields` finds
fields in a running text. It reads no sentence and knows no medicine.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sonoray.documents.document_config import QuestionTask
from sonoray.documents.report_page import Line, PageQuestion
from sonoray.metrics.text import normalise
from sonoray_jobs.evaluation.extraction.fields import FIELDS, find_fields
from sonoray_jobs.evaluation.roles.alone import read_option

_LABELLED = re.compile(r"^([^：:]{1,12})[：:](.*)$", re.DOTALL)
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_RANGE = re.compile(r"^(\d+(?:\.\d+)?)\s*[-~—–]+\s*(\d+(?:\.\d+)?)$")
_LIKE = 0.6
"""Least likeness of a label to a part of the question where OCR misread a character."""
_COUNT, _DIFFERENCE = ("几项", "多少项"), ("相差", "差多少")


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """What can be looked up on a page."""

    values: dict[str, str]
    """By label, the value: of a row of the table its first cell, of a heading the text below."""
    rows: dict[str, Line]
    """By label, all cells of its row of a table."""
    columns: Line
    """Heads of the table, without that of the labels."""
    text: str


def read_layout(lines: Sequence[Line]) -> Layout:
    """Find labels and values among lines."""
    values: dict[str, str] = {}
    rows: dict[str, Line] = {}
    columns: Line = ()
    heading = ""
    for line in lines:
        pairs = _pairs(line)
        if pairs:
            heading = ""
            for label, value in pairs:
                values.setdefault(label, value)
                heading = label if not value and len(pairs) == 1 else ""
        elif len(line) >= 3:
            heading = ""
            if any(map(_NUMBER.search, line[1:])):
                rows.setdefault(line[0], line[1:])
                values.setdefault(line[0], line[1])
            elif not rows:
                columns = line[1:]
        elif heading:
            values[heading] += "".join(line)
    return Layout(values=values, rows=rows, columns=columns, text="\n".join(map("".join, lines)))


def _pairs(line: Line) -> list[tuple[str, str]]:
    """Labels and values of a line in which every cell has one, or is the value of one."""
    pairs: list[tuple[str, str]] = []
    for cell in line:
        match = _LABELLED.match(cell)
        if match:
            pairs.append((match[1].strip(), match[2].strip()))
        elif pairs and not pairs[-1][1]:
            pairs[-1] = (pairs[-1][0], cell)
        else:
            return []
    return pairs


def is_labelled(text: str) -> bool:
    """Whether a line is a label with a value, or a heading."""
    return _LABELLED.match(text) is not None


def look_up(question: PageQuestion, layout: Layout) -> str:
    """Answer a question; empty where nothing on the page fits it."""
    asked, task = question.question, question.task
    if question.options:
        return _choose(question, layout)
    if any(word in asked for word in _COUNT):
        return f"{sum(map(_is_outside, layout.rows.values()))}项"
    if any(word in asked for word in _DIFFERENCE):
        return _difference(asked, layout)
    label = _named(asked, list(layout.values))
    if label is None:
        return _field(asked, layout, task)
    cells = layout.rows.get(label)
    if cells is None:
        return layout.values[label]
    column = _named(asked, layout.columns)
    place = layout.columns.index(column) if column else 0
    return cells[place] if place < len(cells) else ""


def _named(question: str, labels: Sequence[str]) -> str | None:
    """The label that a question names: the longest, else the one most like a part of it."""
    wanted = normalise(question)
    held = [label for label in labels if normalise(label) and normalise(label) in wanted]
    if held:
        return max(held, key=len)
    scored = [(_likeness(normalise(label), wanted), label) for label in labels]
    best = max(scored, default=(0.0, ""))
    return best[1] if best[0] >= _LIKE else None


def _likeness(label: str, question: str) -> float:
    """Share of a label's characters that stand in the question at its best place."""
    if len(label) < 2:
        return 0.0
    places = range(max(1, len(question) - len(label) + 1))
    return max(
        sum(one == other for one, other in zip(label, question[at:], strict=False)) / len(label)
        for at in places
    )


def _choose(question: PageQuestion, layout: Layout) -> str:
    """The option that the page names alone."""
    return read_option(layout.text, question.options) or ""


def _difference(question: str, layout: Layout) -> str:
    """Of the numbers of two rows that the question names."""
    names = [label for label in layout.rows if normalise(label) in normalise(question)]
    numbers = [_NUMBER.search(layout.rows[label][0]) for label in names]
    if len(names) != 2 or not all(numbers):
        return ""
    one, other = (float(each[0]) for each in numbers if each)
    return f"{abs(one - other):.1f}"


def _is_outside(cells: Line) -> bool:
    """Whether the first number of a row lies outside the range that the row has."""
    value = _NUMBER.search(cells[0])
    bounds = next((match for cell in cells[1:] if (match := _RANGE.match(cell))), None)
    if value is None or bounds is None:
        return False
    return not float(bounds[1]) <= float(value[0]) <= float(bounds[2])


def _field(question: str, layout: Layout, task: QuestionTask) -> str:
    """The first field of its name that the wordings of reports give."""
    name = next((each for each in FIELDS if each in question), None)
    if name is None or task != "entity":
        return ""
    running = layout.text.replace("\n", "")  # a value may stand across two lines
    return next((each.value for each in find_fields(running) if each.name == name), "")
