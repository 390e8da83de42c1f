"""How large what a mask shows is: its largest diameter and its area, in millimetres or pixels.

The diameter is the largest distance between two corners of its pixels (the largest Feret diameter),
as a caliper would be set. It is that of the largest connected part, so that a stray pixel elsewhere
does not stretch it; the area is that of all parts.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

from sonoray.metrics.areas.mask_overlap import Mask

_CORNERS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
_AND_DIAGONALS = np.ones((3, 3), np.int64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Extent:
    """Size of what a mask shows."""

    diameter: float
    """Millimetres or pixels."""
    area: float
    """Their squares."""


def extent_of(mask: Mask, spacing_mm: tuple[float, float] | None = None) -> Extent:
    """Measure a mask; an empty one has diameter and area 0.

    Args:
        mask: (H, W).
        spacing_mm: between pixels across and down; None measures in pixels.
    """
    across, down = spacing_mm or (1.0, 1.0)
    parts, num_parts = ndimage.label(mask, structure=_AND_DIAGONALS)
    if not num_parts:
        return Extent(diameter=0.0, area=0.0)
    sizes = np.bincount(parts.ravel())[1:]
    largest = parts == 1 + int(sizes.argmax())
    edge = largest & ~ndimage.binary_erosion(largest)
    corners = (np.argwhere(edge)[:, None] + _CORNERS).reshape(-1, 2) * (down, across)
    hull = corners[ConvexHull(corners).vertices]
    return Extent(
        diameter=float(pdist(hull).max()),
        area=float(np.count_nonzero(mask)) * across * down,
    )
