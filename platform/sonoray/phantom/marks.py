"""What a scanner burns into the image: a body mark and a depth ruler.

The body mark stands in the lower left corner: both halves of the organ in outline, the scanned one
filled. It is the only thing that tells left from right in the breast, as in practice. The ruler
along the right edge has a tick every 10 mm.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from sonoray.phantom.anatomy import PRESETS, Organ
from sonoray.phantom.lesion import Side
from sonoray.phantom.physics import Gray

_MARK_WIDTH, _MARK_HEIGHT = 0.21, 0.15
"""Of the image's side."""
_HALVES = {
    # centre x, centre y, half width, half height of the organ's half on the image's left and right
    Organ.THYROID: ((0.31, 0.5, 0.15, 0.40), (0.69, 0.5, 0.15, 0.40)),
    Organ.BREAST: ((0.26, 0.5, 0.21, 0.33), (0.74, 0.5, 0.21, 0.33)),
    Organ.LIVER: ((0.36, 0.5, 0.31, 0.40), (0.80, 0.36, 0.17, 0.24)),
}
_FILLED, _OUTLINE, _TICK = 235, 120, 170


def burn_marks(image: Gray, organ: Organ, side: Side) -> None:
    """Draw the body mark and the ruler into `image`, uint8 (S, S), in place."""
    size = len(image)
    mark = _body_mark(organ, side, size)
    height, width = mark.shape
    image[size - height :, :width] = mark
    pixels_per_cm = 10 * size / PRESETS[organ].probe.side_mm
    top = PRESETS[organ].probe.sag_mm / 10 * pixels_per_cm
    rows = np.arange(top, size - 1, pixels_per_cm).astype(int)
    image[rows, size - max(2, size // 48) :] = _TICK


@cache
def _body_mark(organ: Organ, side: Side, size: int) -> Gray:
    height, width = round(_MARK_HEIGHT * size), round(_MARK_WIDTH * size)
    y = (np.arange(height)[:, None] + 0.5) / height
    x = (np.arange(width)[None, :] + 0.5) / width
    mark = np.zeros((height, width), np.uint8)
    for number, half in enumerate(_HALVES[organ]):
        level = _level(x, y, *half)
        scanned = (number == 0) == (side is Side.RIGHT)  # the patient's right is on the left
        mark[(level < 1) & (level > 1 - 3.5 / (half[2] * width))] = _OUTLINE
        if scanned:
            mark[level < 1] = _FILLED
    return mark


def _level(
    x: NDArray[np.float64], y: NDArray[np.float64], cx: float, cy: float, rx: float, ry: float
) -> NDArray[np.float64]:
    level: NDArray[np.float64] = ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2
    return level
