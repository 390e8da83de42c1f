"""Identifiers that a spreadsheet took for numbers, and what it made of them.

A number of 18 digits becomes `4.40106E+17` in a file that Excel saves, whoever it was: different
persons get one number, and their pictures one split. `00123` becomes `123`, and a column with an
empty cell becomes `123.0`, which no other export has. What is lost cannot be put back, so sources
refuse the row and say how to export the column as text.

Some traces stand in a value itself. Others only show in the column as a whole, where chance can be
ruled out: long numbers that all end in zeros (15 digits are what Excel keeps) or that all are
floating point numbers (53 bits), and numbers that are shorter than those with leading zeros beside
them.
"""

import math
import re
from collections.abc import Iterable, Mapping

_EXCEL_DIGITS = 15
_FLOAT_BITS = 53
_CHANCE = 1e-4
"""Below it, so many rounded-looking numbers are no chance."""
_SCIENTIFIC = re.compile(r"[+-]?\d+(?:[.,]\d+)?[eE]\+\d+|[+-]?\d+[.,]\d+[eE]\d+")
_DECIMAL = re.compile(r"\d+[.,]0+|\d{1,3}(?:,\d{3})+")
_FRACTION = re.compile(r"\d+[.,]\d*[1-9]")
_FAILED = re.compile(
    r"#+|#(?:N/A|NAME\?|VALUE!|REF!|NUM!|DIV/0!|NULL!)|nan|NaN|NAN|<NA>|N/A|NaT|None|NULL|null"
)

_ROUNDED, _REFORMATTED = "rounded_identifier", "reformatted_identifier"
SHORTENED, _FAILED_CELL = "shortened_identifier", "empty_identifier"
_WHAT = {
    _ROUNDED: "a number that was rounded, as 4.40106E+17, so that several may share it",
    _REFORMATTED: "an identifier that was written as a number, as 123.0 or 1,234",
    SHORTENED: "a number without the leading zeros that others have, or the headers",
    _FAILED_CELL: "what stands for an empty or failed cell, as #N/A or nan",
}
_REMEDY = (
    "export the column as text (Excel: Data, From Text/CSV, type Text; pandas: dtype=str) from "
    "where it is still whole"
)


def find_damage(values: Iterable[str]) -> Mapping[str, str]:
    """Find the identifiers of a column that a spreadsheet changed.

    Args:
        values: of one column; empty ones say nothing.

    Returns:
        By changed value, the reason: `rounded_identifier`, `reformatted_identifier`,
        `shortened_identifier` or `empty_identifier`.
    """
    distinct = {value for value in values if value}
    found = dict.fromkeys(_find_shortened(distinct), SHORTENED)
    if not any(map(_FRACTION.fullmatch, distinct)):
        found |= dict.fromkeys(filter(_DECIMAL.fullmatch, distinct), _REFORMATTED)
    found |= dict.fromkeys(_find_rounded(distinct), _ROUNDED)
    found |= dict.fromkeys(filter(_SCIENTIFIC.fullmatch, distinct), _ROUNDED)
    found |= dict.fromkeys(filter(_FAILED.fullmatch, distinct), _FAILED_CELL)
    return found


def describe_damage(reason: str, where: str) -> str:
    """The problem of a row, as `reason: detail`, without the value.

    Args:
        reason: as `find_damage` gives it.
        where: row and column, as `line 3, column patient`.
    """
    return f"{reason}: {where} has {_WHAT[reason]}; {_REMEDY}"


def _find_rounded(values: set[str]) -> set[str]:
    """Long whole numbers of which more look rounded than chance makes."""
    numbers = {value: int(value) for value in values if value.isascii() and value.isdecimal()}
    rounded: set[str] = set()
    for step_of in (_excel_step, _float_step):
        steps = {value: step_of(number) for value, number in numbers.items()}
        suspects = {
            value for value, step in steps.items() if step > 1 and not numbers[value] % step
        }
        expected = sum(1 / step for step in steps.values() if step > 1)
        if suspects and _poisson_tail(len(suspects), expected) < _CHANCE:
            rounded |= suspects
    return rounded


def _excel_step(number: int) -> int:
    """Of what numbers of this size are multiples where 15 digits were kept."""
    step: int = 10 ** max(0, len(str(number)) - _EXCEL_DIGITS)
    return step


def _float_step(number: int) -> int:
    """Of what numbers of this size are multiples where 53 bits were kept."""
    return 1 << max(0, number.bit_length() - _FLOAT_BITS)


def _poisson_tail(count: int, expected: float) -> float:
    """How likely `count` or more are where so many are expected."""
    fewer = sum(expected**k / math.factorial(k) for k in range(min(count, 100)))
    return 1 - math.exp(-expected) * fewer if expected < count else 1.0


def _find_shortened(values: set[str]) -> set[str]:
    """Numbers without leading zeros beside those that have them.

    Either the same number with them stands in the column too, or several numbers that have them
    are of one width, which none exceeds.
    """
    numbers = {value for value in values if value.isascii() and value.isdecimal()}
    padded = {value for value in numbers if value[0] == "0" and len(value) > 1}
    bare = numbers - padded
    whole = {value.lstrip("0") for value in padded}
    widths = {len(value) for value in padded}
    width = widths.pop() if len(widths) == 1 and len(padded) > 1 else 0
    if any(len(value) > width for value in bare):
        width = 0
    return {value for value in bare if value in whole or len(value) < width}
