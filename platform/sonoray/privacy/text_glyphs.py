"""Glyphs: components of thin, bright ink that may be letters, or words whose letters touch.

The second step of `burned_in_text`: what stands out by a contrast is labelled, and components of
another height, too little ink or within colour flow are left out.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from sonoray.images.decode import Pixels

_HEIGHTS = (4, 52)
"""Lowest and highest glyph, pixels: a lower-case letter of 8 point text, and a capital of 48."""
_STRONG_SHARE = 0.25
"""Of a glyph's pixels, at least so many stand out by 1.6 times the contrast: speckle hardly does,
as its peaks fall off exponentially."""
_MAX_GLYPHS = 800
"""Strongest glyphs that are compared in pairs."""


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
    runs = _Runs.of(ridges >= min_contrast)
    if runs is None:
        return None
    count, owner = connected_components(runs.touching(), directed=False)

    def total(values: NDArray[Any]) -> NDArray[Any]:
        """Sum over each component of a value for each pixel of ink."""
        sums: NDArray[Any] = np.bincount(owner, runs.total(values), minlength=count)
        return sums

    contrasts = ridges.ravel()[runs.ink].astype(np.float32)
    area = np.bincount(owner, runs.right - runs.left, minlength=count)
    left, upper = np.full(count, plane.shape[1]), np.full(count, plane.shape[0])
    right, lower = np.zeros(count, int), np.zeros(count, int)
    np.minimum.at(left, owner, runs.left)
    np.minimum.at(upper, owner, runs.row)
    np.maximum.at(right, owner, runs.right)
    np.maximum.at(lower, owner, runs.row + 1)
    height = lower - upper
    strong = total(contrasts >= 1.6 * min_contrast)
    usable = np.flatnonzero(
        (height >= _HEIGHTS[0])
        & (height <= _HEIGHTS[1])
        & (right - left <= 25 * height)
        & (area >= 5)
        & (strong >= _STRONG_SHARE * area)
        & (total(flow.ravel()[runs.ink]) < 0.5 * area)
    )
    if not len(usable):
        return None
    chosen = usable[np.argsort(-strong[usable], kind="stable")[:_MAX_GLYPHS]]
    contrast = total(contrasts)
    return Glyphs(
        left=left[chosen],
        upper=upper[chosen],
        right=right[chosen],
        lower=lower[chosen],
        area=area[chosen],
        strokes=np.bincount(owner, minlength=count)[chosen],
        level=(total(plane.ravel()[runs.ink]) / area)[chosen],
        contrast=(contrast / area)[chosen],
        sharpness=(total(steps.ravel()[runs.ink]) / contrast)[chosen],
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Runs:
    """Ink row by row, from left to right, each array (N,); what a pen crosses is one run.

    Ink is rare: joining its runs to components takes a sixth of the time of labelling a picture.
    """

    ink: NDArray[Any]
    """Of each pixel of ink, (P,): its place in the flat picture."""
    first: NDArray[Any]
    """Of each run: where in `ink` it begins."""
    row: NDArray[Any]
    left: NDArray[Any]
    right: NDArray[Any]
    """The first outside."""
    width: int
    """Of the picture."""

    @classmethod
    def of(cls, ink: NDArray[np.bool_]) -> "_Runs | None":
        """Runs of (H, W); None where there is no ink."""
        flat = np.flatnonzero(ink)
        if not len(flat):
            return None
        width = ink.shape[1]
        begins = np.ones(len(flat), bool)
        begins[1:] = (flat[1:] != flat[:-1] + 1) | (flat[1:] % width == 0)
        first = np.flatnonzero(begins)
        last = flat[np.append(first[1:], len(flat)) - 1]
        row, left = np.divmod(flat[first], width)
        return cls(ink=flat, first=first, row=row, left=left, right=last % width + 1, width=width)

    def total(self, values: NDArray[Any]) -> NDArray[Any]:
        """Sum over each run of a value for each pixel of ink."""
        sums: NDArray[Any] = np.add.reduceat(values, self.first, dtype=np.float64)
        return sums

    def touching(self) -> coo_matrix:
        """Which runs touch one of the next row, corners included, (N, N)."""
        stride = self.width + 2  # a run at one edge touches none at the other
        starts, ends = self.row * stride + self.left, self.row * stride + self.right
        low = np.searchsorted(ends, starts + stride, side="left")
        high = np.searchsorted(starts, ends + stride, side="right")
        number = np.maximum(high - low, 0)
        above = np.repeat(np.arange(len(number)), number)
        skipped = np.repeat(np.cumsum(number) - number, number)
        below = np.arange(len(above)) - skipped + np.repeat(low, number)
        size = len(self.row)
        return coo_matrix((np.ones(len(above), bool), (above, below)), shape=(size, size))
