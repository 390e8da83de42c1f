"""The banners of a scanner's screen: strips beside the scan that hold text.

Where a source knows the scan area, pictures are cut to it. Where it does not (an old scanner, a
screenshot), text that was found says that the screen is in the picture, and what stands beside it
is a name as likely as not, whether it was found or not. So the whole strip goes, from the scan to
the picture's edge and from one end to the other.

The scan is told from its surroundings by what these are: even. It is what differs from most of the
picture's border, less what is thin (rulers, grey scales, text that was not found) or small. Where
it reaches the edges of the picture, or there is next to none, no strip is known.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from sonoray.images.decode import Pixels
from sonoray.privacy.text_lines import Box

_CELL = 8
"""Pixels: the picture is looked at in squares of this side."""
_DIFFERENT = 6.0
"""Grey levels, mean over a cell, from which it is no background."""
_THIN = 3
"""Cells: what is narrower is a ruler, a grey scale or a line of text that was not found."""
_SMALLEST = 0.1
"""Of the picture's area: a smaller scan is none."""
_PART = 0.2
"""Of the largest part's area: smaller ones are no scan."""
_INSIDE = 0.5
"""Of a line's area: if as much lies in a strip, the strip is a banner."""


def find_scan(pixels: Pixels, boxes: Sequence[Box]) -> Box | None:
    """Estimate the box around the scan; None where it cannot be told from its surroundings.

    Args:
        pixels: uint8 `(H, W)` or `(H, W, 3)`.
        boxes: of text, which is no scan.
    """
    grey = pixels if pixels.ndim == 2 else pixels.max(axis=2)
    height, width = grey.shape
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    background = int(np.bincount(border, minlength=256).argmax())
    away = cv2.absdiff(grey, np.full_like(grey, background))
    for box in boxes:
        away[box.upper : box.lower, box.left : box.right] = 0
    cells = (max(width // _CELL, 1), max(height // _CELL, 1))
    small = cv2.resize(away.astype(np.float32), cells, interpolation=cv2.INTER_AREA)
    filled = (small >= _DIFFERENT).astype(np.uint8)
    thick = cv2.morphologyEx(
        filled,
        cv2.MORPH_OPEN,
        np.ones((_THIN, _THIN), np.uint8),
        borderType=cv2.BORDER_CONSTANT,
        borderValue=0,
    )
    _, _, found, _ = cv2.connectedComponentsWithStats(thick, connectivity=4)
    areas = found[1:, cv2.CC_STAT_AREA]
    if areas.sum() < _SMALLEST * filled.size:
        return None
    # a split screen has two scans, and a dark one several parts
    parts = found[1:][areas >= _PART * areas.max()]
    left, upper = parts[:, : cv2.CC_STAT_WIDTH].min(axis=0)
    right, lower = (parts[:, : cv2.CC_STAT_WIDTH] + parts[:, cv2.CC_STAT_WIDTH : 4]).max(axis=0)
    across, down = width / cells[0], height / cells[1]
    return Box(
        left=int(left * across),
        upper=int(upper * down),
        right=min(round(right * across), width),
        lower=min(round(lower * down), height),
    )


def find_banners(pixels: Pixels, boxes: Sequence[Box]) -> list[Box]:
    """Return the strips beside the scan in which text lies, each from edge to edge."""
    scan = find_scan(pixels, boxes)
    if scan is None:
        return []
    height, width = pixels.shape[:2]
    strips = (
        Box(upper=0, left=0, lower=scan.upper, right=width),
        Box(upper=scan.lower, left=0, lower=height, right=width),
        Box(upper=0, left=0, lower=height, right=scan.left),
        Box(upper=0, left=scan.right, lower=height, right=width),
    )
    chosen = set()
    for box in boxes:  # one in a corner belongs to the strip above or below
        inside = (strip.overlap(box) >= _INSIDE * box.area for strip in strips)
        chosen.add(next((place for place, is_inside in enumerate(inside) if is_inside), None))
    return [strip for place, strip in enumerate(strips) if place in chosen]
