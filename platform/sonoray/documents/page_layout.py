"""From pieces of text to lines with cells, in the order in which a page is read.

A page may be turned or seen in perspective, so that lines rise and fall, and not all alike. The
slope of lines is fitted as a plane over the page from the pieces' own slopes, the long ones
counting most; along it every piece is brought to the page's middle, and pieces of one height there
make a line. Pieces nearer to each other than half a character are one cell, the others cells of
their own, so that the rows of a table keep their columns. A page whose columns are read one after
the other, as that of a journal, is not told apart: its lines are read across.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sonoray.documents.page_reader import TextBox
from sonoray.documents.report_page import Line

_SAME_LINE = 0.5
"""Of a character's height: pieces nearer than this in height are of one line."""
_SAME_CELL = 0.5
"""Of a character's height: gap up to which pieces are one cell."""
_LONG = 3.0
"""Times its height: a piece as long as that shows the slope of its line."""


def lines_of(boxes: Sequence[TextBox]) -> list[Line]:
    """The lines of a page, from top to bottom, each with its cells from left to right."""
    if not boxes:
        return []
    corners = np.stack([box.corners for box in boxes])
    lefts, rights = corners[:, [0, 3]].mean(axis=1), corners[:, [1, 2]].mean(axis=1)
    heights = np.linalg.norm(corners[:, 3] - corners[:, 0], axis=1)
    heights = np.maximum((heights + np.linalg.norm(corners[:, 2] - corners[:, 1], axis=1)) / 2, 1)
    levels = _levels(lefts, rights, heights)
    lines: list[list[int]] = []
    for at in np.argsort(levels, kind="stable").tolist():
        last = lines[-1] if lines else []
        near = last and levels[at] - float(np.mean(levels[last])) < _SAME_LINE * float(
            np.median(heights[[*last, at]])
        )
        if near:
            last.append(at)
        else:
            lines.append([at])
    return [_cells(line, boxes, lefts, rights, heights) for line in lines]


def text_of(lines: Sequence[Line]) -> str:
    """A page as text: cells apart by a blank, lines by a line break."""
    return "\n".join(" ".join(line) for line in lines)


def _levels(
    lefts: NDArray[np.float64], rights: NDArray[np.float64], heights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Height (B,) of each piece where its line crosses the page's middle."""
    along = rights - lefts
    widths = np.maximum(np.abs(along[:, 0]), 1)
    centres = (lefts + rights) / 2
    middle = (centres[:, 0].min() + centres[:, 0].max()) / 2
    across, down = centres[:, 0] - middle, centres[:, 1] - centres[:, 1].mean()
    long = widths > _LONG * heights
    if not long.any():
        return np.asarray(centres[:, 1])
    slopes = along[:, 1] / widths * np.sign(along[:, 0])
    span = np.array([1.0, max(np.ptp(across), 1), max(np.ptp(down), 1)])
    terms = np.stack([np.ones_like(across), across, down], axis=1) / span
    weights = np.where(long, widths, 0.0)
    # a little towards no change over the page: few pieces do not show one
    ridge = np.diag([0.0, 0.05, 0.05]) * weights.sum()
    system = (terms * weights[:, None]).T @ terms + ridge
    plane = np.linalg.solve(system + 1e-9 * np.eye(3), terms.T @ (weights * slopes)) / span
    drop = (plane[0] + plane[2] * down) * across + plane[1] * across**2 / 2
    return np.asarray(centres[:, 1] - drop)


def _cells(
    line: Sequence[int],
    boxes: Sequence[TextBox],
    lefts: NDArray[np.float64],
    rights: NDArray[np.float64],
    heights: NDArray[np.float64],
) -> Line:
    cells: list[str] = []
    end = -np.inf
    for at in sorted(line, key=lambda at: float(lefts[at, 0])):
        if lefts[at, 0] - end < _SAME_CELL * heights[at]:
            cells[-1] += boxes[at].text
        else:
            cells.append(boxes[at].text)
        end = max(end, float(rights[at, 0]))
    return tuple(cells)
