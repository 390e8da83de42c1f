"""Text that a scanner burned into a picture: where it stands, and how it is covered.

Names, numbers and dates are drawn in thin strokes of even width that stand out from what is around
them with sharp edges, in components of like height beside each other. Speckle is blurred by the
scanner's point spread, tissue is broad, ticks and calipers stand alone. What looks so is a
candidate; where its looks leave a doubt, it is read, and what reads as nothing is no text:

1. a white top-hat keeps what is thinner than a stroke in some direction: the plane less its opening
   with a short line, horizontal or vertical. Planes are the brightness, its negative (dark text)
   and, in colour pictures, the saturation (`text_planes`);
2. at five contrasts, connected components of the right height are glyphs, or words whose letters
   touch (`text_glyphs`);
3. glyphs beside each other, of like height and brightness, with a common top or baseline, are a
   line, and a logistic score of six measures says how much it looks like text (`text_lines`);
4. a line that is sure and ends where its glyphs do is text. Of any other a recogniser says whether
   it is, and how far it goes on to both sides (`text_judge`, `text_reader`). A sure line has a
   score of `_SURE`: 95 % of the strings on black have it, and dashed arcs of a transducer stay 3
   below. A line that lies half on text and looks like it is more of the same.

What a colour Doppler draws is thin, bright and sharp as well. Its colours run from one to another,
where those of text are one, so glyphs in areas of mixed colours are left out.

Single letters, text above 52 pixels or with strokes above 8, and handwriting are not looked for.
What it finds and what it takes for text is measured by `bench/burned_in_text.py`, with the figures
in docs/results.md. The detector of the same package was measured too: beside this search it finds
less text, boxes many pictures that have none, and takes seven times the CPU time that this may.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from sonoray.images.decode import Pixels
from sonoray.privacy.text_glyphs import find_glyphs
from sonoray.privacy.text_judge import TextLine, judge
from sonoray.privacy.text_lines import Box, Line, find_lines
from sonoray.privacy.text_planes import colour_flow, edge_steps, iter_planes, texture_level, top_hat

FILL = 128
"""What covers text. Black would pass for fluid and white for calcium or air; an even grey without
speckle is nothing that tissue shows."""
_CONTRASTS = (20, 40, 64, 100, 150)
"""Grey levels by which strokes stand out. The lowest finds grey text on grey tissue; over bright
speckle text comes apart from it at the higher ones alone."""
_STROKES = (5, 9)
"""Pixels: strokes are thinner. Grey letters of 8 to 16 pixels come apart from speckle at the
smaller."""
_BESIDE = 40
"""Grey levels from which what stands out beside a line may be more of it."""
_SURE = 9.0
"""Score of a line that needs no reading."""
_MORE = 1.5
"""Score of a line that goes with text that it lies on by half."""
_MOST_READ = 24
"""Lines that are read of one picture, the best first, so that its time is bounded."""


def find_text(pixels: Pixels, *, margin: float = 0.25, read_all: bool = False) -> list[TextLine]:
    """Find lines of text.

    Args:
        pixels: uint8 `(H, W)` or `(H, W, 3)`.
        margin: by how much a box is wider than the line's ink on each side, over the line's height;
            at least 2 pixels. It takes in accents, dots and dashes, which are no glyphs.
        read_all: whether sure lines are read too, for who wants to know what stands there.

    Returns:
        Lines whose boxes lie within the picture, from top to bottom. They may overlap, as where one
        contrast finds the upper part of a line and another all of it.
    """
    found: list[TextLine] = []
    refused: list[Line] = []
    covered = np.zeros(pixels.shape[:2], bool)
    unread = pixels.copy()  # no line is found a second time by what it holds of another
    num_read = 0
    for line, is_whole in _candidates(pixels):
        share = _part(covered, line.box).mean()
        if share == 1 or any(_repeats(line, each) for each in refused):
            continue
        text: TextLine | None = None
        if share >= 0.5:
            text = _more_of(found, line)
            if text is None:
                continue
        else:
            is_sure = is_whole and line.score >= _SURE
            if num_read < _MOST_READ and (read_all or not is_sure):
                num_read += 1
                text = judge(unread, line)
            if is_sure and text is None:
                text = TextLine(box=line.box, height=line.height, words="")
        if text is None:
            refused.append(line)
            continue
        text = text.widened(margin, pixels.shape)
        _part(covered, text.box)[:] = True
        _part(unread, text.box)[:] = FILL
        found.append(text)
    return sorted(found, key=lambda each: each.box)


def cover(pixels: Pixels, boxes: Iterable[Box]) -> Pixels:
    """Return a copy of `(H, W)` or `(H, W, 3)` pixels whose boxes are filled with `FILL`."""
    covered = pixels.copy()
    for box in boxes:
        _part(covered, box)[:] = FILL
    return covered


def _candidates(pixels: Pixels) -> list[tuple[Line, bool]]:
    """Lines that may be text, the best first, and whether nothing stands out beside them."""
    found: list[tuple[Line, bool]] = []
    flow = colour_flow(pixels)
    for plane in iter_planes(pixels):
        steps = edge_steps(plane)
        for stroke in _STROKES:
            ridges = top_hat(plane, stroke)
            texture = texture_level(ridges)
            for contrast in _CONTRASTS:
                glyphs = find_glyphs(plane, ridges, steps, flow, contrast)
                if glyphs is not None:
                    lines = find_lines(glyphs, texture)
                    found.extend((line, _is_whole(line, ridges)) for line in lines)
    return sorted(found, key=lambda each: (-each[0].score, each[0].box))


def _is_whole(line: Line, ridges: Pixels) -> bool:
    """Whether next to nothing stands out where the line's next letters would be."""
    box, reach = line.box, round(1.2 * line.height)
    rows = ridges[box.upper : box.lower]
    beside = rows[:, max(box.left - reach, 0) : box.left], rows[:, box.right : box.right + reach]
    return all(np.count_nonzero(each >= _BESIDE) < 3 for each in beside)


def _repeats(line: Line, refused: Line) -> bool:
    """Whether a line lies where one of like height was read as nothing."""
    return (
        max(line.height, refused.height) <= 1.5 * min(line.height, refused.height)
        and line.box.overlap(refused.box) >= 0.7 * line.box.area
    )


def _more_of(found: Sequence[TextLine], line: Line) -> TextLine | None:
    """What a line adds to text on which it lies by half: rows, and columns where it was not read.

    None where it looks less like text, or is higher than that text with its margin.
    """
    lain_on = max(found, key=lambda each: line.box.overlap(each.box))
    high, allowed = (box.lower - box.upper for box in (line.box, lain_on.box))
    if line.score < _MORE or high > allowed:
        return None
    box = line.box
    if lain_on.words:
        left, right = max(box.left, lain_on.box.left), min(box.right, lain_on.box.right)
        box = dataclasses.replace(box, left=left, right=right)
    return TextLine(box=box, height=line.height, words=lain_on.words)


def _part(plane: Pixels, box: Box) -> Pixels:
    return plane[box.upper : box.lower, box.left : box.right]
