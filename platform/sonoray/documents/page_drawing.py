"""A report page as drawn: header in two columns, table with rules, wrapped sections.

The lines come with it as they are read: from top to bottom, from left to right, a cell of a line by
itself. They are the true text that OCR is judged by.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sonoray.documents.report_page import COLUMNS, Line, ReportPage
from sonoray.errors import DataError
from sonoray.images.decode import Pixels
from sonoray.images.fonts import find_font

WIDTH, HEIGHT = 840, 1120
"""Pixels of a page, about 100 per inch of A4."""
_MARGIN = 60
_TEXT, _TITLE = 20, 30
"""Pixels of a character."""
_PITCH = 36
"""Pixels from line to line."""
_COLUMNS_AT = (60, 260, 380, 490, 690)
_HEADER_AT = (60, 440)
_CHARACTERS_OF_LINE = (WIDTH - 2 * _MARGIN) // _TEXT
_INK = 25
_TITLE_LINES, _GAP_LINES = 1.6, 0.5
"""Lines that the title takes, and the gap above the footer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawnPage:
    """A page, and what stands on it."""

    pixels: Pixels
    """uint8 (H, W): dark on white."""
    lines: tuple[Line, ...]


def draw_page(page: ReportPage) -> DrawnPage:
    """Draw a page.

    Raises:
        DataError: there is no font for its characters, or its text is longer than a page.
    """
    if not fits(page):
        raise DataError("a report does not fit a page; leave it out")
    pen = _Pen(_font_file(page))
    pen.put(WIDTH // 2 - len(page.title) * _TITLE // 2, page.title, size=_TITLE)
    pen.next_line(_TITLE_LINES)
    for start in range(0, len(page.header), 2):
        for at, (label, value) in zip(_HEADER_AT, page.header[start : start + 2], strict=False):
            pen.put(at, f"{label}：{value}")
        pen.next_line()
    if page.measurements:
        pen.rule()
        for cells in (COLUMNS, *(row.cells for row in page.measurements)):
            for at, cell in zip(_COLUMNS_AT, cells, strict=True):
                if cell:
                    pen.put(at, cell)
            pen.next_line()
        pen.rule()
    for heading, text in page.sections:
        pen.put(_MARGIN, f"{heading}：")
        pen.next_line()
        for line in wrap(text):
            pen.put(_MARGIN, line)
            pen.next_line()
    pen.next_line(_GAP_LINES)
    pen.put(_MARGIN, page.footer)
    pen.next_line()
    return DrawnPage(pixels=np.array(pen.image), lines=tuple(pen.lines))


def fits(page: ReportPage) -> bool:
    """Whether a report is no longer than a page."""
    lines = _TITLE_LINES + -(-len(page.header) // 2)
    lines += 1 + len(page.measurements) if page.measurements else 0
    lines += sum(1 + len(wrap(text)) for _, text in page.sections)
    return _MARGIN + (lines + _GAP_LINES + 1) * _PITCH <= HEIGHT - _MARGIN / 2


def wrap(text: str, width: int = _CHARACTERS_OF_LINE) -> list[str]:
    """Cut a text into lines of so many full-width characters; half-width ones count 0.6.

    Every line break that Unicode knows ends a line; other signs that have no shape become blanks,
    and lines of blanks alone are left out.
    """
    lines: list[str] = []
    for part in text.splitlines():
        lines.append("")
        room = float(width)
        for sign in part:
            size = 0.6 if sign.isascii() else 1.0
            if room < size:
                lines.append("")
                room = float(width)
            lines[-1] += sign if sign.isprintable() else " "
            room -= size
    return [line for line in lines if line.strip()]


class _Pen:
    """Draws line by line and keeps what it drew."""

    def __init__(self, font: str) -> None:
        self.image = Image.new("L", (WIDTH, HEIGHT), 255)
        self._draw = ImageDraw.Draw(self.image)
        self._font = font
        self._top = float(_MARGIN)
        self._cells: list[str] = []
        self.lines: list[Line] = []

    def put(self, left: int, text: str, size: int = _TEXT) -> None:
        """Draw a cell of the line."""
        self._draw.text((left, self._top), text, font=_load(self._font, size), fill=_INK)
        self._cells.append(text)

    def next_line(self, pitch: float = 1.0) -> None:
        """End the line."""
        self._top += pitch * _PITCH
        if self._cells:
            self.lines.append(tuple(self._cells))
            self._cells = []

    def rule(self) -> None:
        """Draw a horizontal rule above the next line."""
        at = self._top - 5
        self._draw.line((_MARGIN, at, WIDTH - _MARGIN, at), fill=120, width=1)


@cache
def _load(file: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size)


_fonts: dict[frozenset[str], Path | None] = {}


def _font_file(page: ReportPage) -> str:
    texts: tuple[str, ...] = (page.title, page.footer, *COLUMNS, "↑↓：")
    texts += tuple(part for pair in (*page.header, *page.sections) for part in pair)
    texts += tuple(cell for row in page.measurements for cell in row.cells)
    signs = frozenset(sign for sign in "".join(texts) if sign.isprintable())
    known = next((file for own, file in _fonts.items() if signs <= own and file), None)
    if known is None:  # matplotlib looks through all fonts, so every sign is asked for once
        signs = signs.union(*_fonts)
        known = _fonts[signs] = find_font(["".join(sorted(signs))])
    if known is None:
        raise DataError(
            "no font of this machine has all characters of the pages; install one with: apt-get "
            "install fonts-noto-cjk"
        )
    return str(known)
