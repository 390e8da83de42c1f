"""Glyphs: components of thin, bright ink that may be letters, or words whose letters touch.

The second step of `burned_in_text`: what stands out by a contrast is labelled, and components of
another height, too little ink or within colour flow are left out.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from sonoray.images.decode import Pixels

_HEIGHTS = (4, 52)
"""Lowest and highest glyph, pixels: a lower-case letter of 8 point text, and a capital of 48."""
_STRONG_SHARE = 0.25
"""Of a glyph's pixels, at least so many stand out by 1.6 times the contrast: speckle hardly does,
as its peaks fall off exponentially."""
_MAX_GLYPHS = 800
"""Strongest glyphs that are compared in pairs."""
_EIGHT_NEIGHBOURS = np.ones((3, 3), bool)


@dataclass(frozen=True, kw_only=True, slots=True)
class Glyphs:
    """Components that may be letters, each array (N,)."""

    left: NDArray[Any]
    upper: NDArray[Any]
    right: NDArray[Any]
    lower: NDArray[Any]
    area: NDArray[Any]
    """Pixels of ink."""
    strokes: NDArray[Any]
    """Runs of ink, row by row: what a pen crosses."""
    level: NDArray[Any]
    """Mean of the plane."""
    contrast: NDArray[Any]
    """Mean by which the ink stands out."""
    sharpness: NDArray[Any]
    """Mean step between neighbours over the contrast."""

    @property
    def height(self) -> NDArray[Any]:
        """In pixels."""
        height: NDArray[Any] = self.lower - self.upper
        return height


def find_glyphs(
    plane: Pixels, ridges: Pixels, steps: Pixels, flow: NDArray[np.bool_], min_contrast: int
) -> Glyphs | None:
    """Components of what stands out by `min_contrast`; None where there is no glyph."""
    ink = ridges >= min_contrast
    labels, count = ndimage.label(ink, structure=_EIGHT_NEIGHBOURS)
    y, x = np.nonzero(ink)
    owner = labels[y, x] - 1
    contrasts = ridges[y, x].astype(np.float32)
    area = np.bincount(owner, minlength=count)

    def total(values: NDArray[Any]) -> NDArray[Any]:
        return np.bincount(owner, values, minlength=count)

    left, upper = np.full(count, plane.shape[1]), np.full(count, plane.shape[0])
    right, lower = np.zeros(count, int), np.zeros(count, int)
    np.minimum.at(left, owner, x)
    np.minimum.at(upper, owner, y)
    np.maximum.at(right, owner, x + 1)
    np.maximum.at(lower, owner, y + 1)
    height = lower - upper
    strong = total(contrasts >= 1.6 * min_contrast)
    usable = np.flatnonzero(
        (height >= _HEIGHTS[0])
        & (height <= _HEIGHTS[1])
        & (right - left <= 25 * height)
        & (area >= 5)
        & (strong >= _STRONG_SHARE * area)
        & (total(flow[y, x]) < 0.5 * area)
    )
    if not len(usable):
        return None
    chosen = usable[np.argsort(-strong[usable], kind="stable")[:_MAX_GLYPHS]]
    begins = np.ones(len(x), bool)
    begins[1:] = (x[1:] != x[:-1] + 1) | (y[1:] != y[:-1])
    contrast = total(contrasts)
    return Glyphs(
        left=left[chosen],
        upper=upper[chosen],
        right=right[chosen],
        lower=lower[chosen],
        area=area[chosen],
        strokes=total(begins)[chosen],
        level=(total(plane[y, x]) / area)[chosen],
        contrast=(contrast / area)[chosen],
        sharpness=(total(steps[y, x]) / contrast)[chosen],
    )
