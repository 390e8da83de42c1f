"""Whether a line that may be text is, and how far it goes: what a recogniser reads there decides.

The last step of `burned_in_text`. The line is read with a little of what stands beside it. Where
characters come close to the end of what was read, reading goes on, so that a line is covered whole
of which the looks showed a part: where it runs into bright tissue, no contrast tells its letters.
"""

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sonoray.images.decode import Pixels
from sonoray.privacy.text_lines import Box, Line
from sonoray.privacy.text_reader import Reading, read_line

_LIKELY = 2.5
"""Score of a line from which two letters or digits that differ make it text, else three do, and a
wide character counts twice. Rulers and dashes read as one letter, over and over; of 332 candidates
in pictures without text 21 read as two, all of a lower score and most on a ruler, and one as
three."""
_SIGNS = "一二三十口丨"
"""What calipers, rulers and boxes read as."""
_MANY = 3.0
"""Sum of probabilities from which different characters make text that are not certain one by one,
as blurred ones are. Of those 332 none had more than 2.5."""
_ROOM = 0.3
"""Above and below a line that is read, over its height, at least 2 pixels."""
_REACH = 1.6
"""Beside it."""
_HALF = 0.6
"""Of a character's width, over the height of the line: the widest, as Chinese ones are."""
_BACK, _AHEAD = 1.5, 5.0
"""What is read again and anew where reading goes on, over the height of the line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextLine:
    """A line of text in a picture."""

    box: Box
    height: int
    """Of its glyphs, in pixels."""
    words: str = field(repr=False)
    """What was read of it; empty where it was not read."""

    def widened(self, margin: float, shape: tuple[int, ...]) -> "TextLine":
        """The line with a box that is wider by `margin` times its height, at least 2 pixels."""
        box, room = self.box, max(2, round(margin * self.height))
        return TextLine(
            box=Box(
                left=max(box.left - room, 0),
                upper=max(box.upper - room, 0),
                right=min(box.right + room, shape[1]),
                lower=min(box.lower + room, shape[0]),
            ),
            height=self.height,
            words=self.words,
        )


def judge(pixels: Pixels, line: Line) -> TextLine | None:
    """Return the text that stands there, without a margin; None where nothing can be read."""
    height, box, width = line.height, line.box, pixels.shape[1]
    room = max(2, round(_ROOM * height))
    rows = pixels[max(box.upper - room, 0) : box.lower + room]

    def read(left: float, right: float) -> tuple[Reading, NDArray[np.float64]]:
        begin, end = max(int(left), 0), min(int(right), width)
        reading = read_line(rows[:, begin:end])
        return reading, begin + reading.places

    begin, end = box.left - _REACH * height, box.right + _REACH * height
    reading, places = read(begin, end)
    if not _is_text(reading, line.score):
        return None
    centre = (box.left + box.right) / 2
    before, first = _follow(read, places.min(initial=centre), begin, height, width)
    after, last = _follow(read, places.max(initial=centre), end, height, width)
    half = _HALF * height
    return TextLine(
        box=Box(
            upper=box.upper,
            left=max(min(box.left, int(first - half)), 0),
            lower=box.lower,
            right=min(max(box.right, int(last + half)), width),
        ),
        height=height,
        words=" ".join(filter(None, (before, reading.text, after))),
    )


def _is_text(reading: Reading, score: float) -> bool:
    """Whether what was read of a line of that score says that it is text."""
    words = {each for each in reading.text if each.isalnum() and each not in _SIGNS}
    weight = sum(2 if unicodedata.east_asian_width(each) == "W" else 1 for each in words)
    return weight >= (2 if score >= _LIKELY else 3) or reading.sum_chances >= _MANY


def _follow(
    read: Callable[[float, float], tuple[Reading, NDArray[np.float64]]],
    place: float,
    end: float,
    height: int,
    width: int,
) -> tuple[str, float]:
    """Read on from the outermost character while the next ones are close to the end of the crop.

    Args:
        read: what stands between two columns, and the characters' places.
        place: of the outermost character.
        end: of what was read, on its side.
        height: of the line.
        width: of the picture.

    Returns:
        What was read, and the place of the outermost character.
    """
    side = 1 if end > place else -1
    words = []
    while 0 < end < width and side * (end - place) < 2 * _HALF * height:
        end = place + side * _AHEAD * height
        reading, places = read(*sorted((place - side * _BACK * height, end)))
        farthest = side * (side * places).max(initial=side * place)
        if side * (farthest - place) <= _HALF * height:
            break
        place = farthest
        words.append(reading.text)
    return " ".join(words), place
