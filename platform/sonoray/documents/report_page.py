"""What stands on a report page, and what is asked about it."""

from collections.abc import Mapping
from dataclasses import dataclass

from sonoray.documents.document_config import QuestionTask

Line = tuple[str, ...]
"""The cells of one line of a page, from left to right; a line of a paragraph has one."""

COLUMNS = ("项目", "测值", "单位", "参考范围", "提示")
"""Heads of the table of measurements."""
HIGH, LOW = "↑", "↓"
"""Marks of values outside their range."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """One row of the table, as printed."""

    name: str
    value: str
    unit: str
    normal: str
    """Reference range, as 4.0-13.0; `-` where there is none."""

    @property
    def mark(self) -> str:
        """Whether the value lies outside its range."""
        if self.normal == "-":
            return ""
        low, high = map(float, self.normal.split("-"))
        return HIGH if float(self.value) > high else LOW if float(self.value) < low else ""

    @property
    def cells(self) -> Line:
        """Its row."""
        return (self.name, self.value, self.unit, self.normal, self.mark)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportPage:
    """The content of a page."""

    record: str
    """Name of the report; its pages are one cluster of intervals."""
    title: str
    header: tuple[tuple[str, str], ...]
    """Labels and values, two to a line."""
    measurements: tuple[Measurement, ...]
    sections: tuple[tuple[str, str], ...]
    """Headings and texts."""
    footer: str

    @property
    def fields(self) -> Mapping[str, str]:
        """What can be looked up: by label, the value."""
        cells = {each.name: each.value for each in self.measurements}
        return {**dict(self.header), **cells, **dict(self.sections)}


@dataclass(frozen=True, kw_only=True, slots=True)
class PageQuestion:
    """One question about a page."""

    question: str
    answer: str
    task: QuestionTask
    options: tuple[str, ...] = ()
    """Of a question of the task `choice`."""
