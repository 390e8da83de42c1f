"""Boxes and points of true masks: what a person would draw, as prompts of SAM.

Coordinates are x, y in pixels of the array, those of a pixel's middle, as SAM counts them. While a
segmenter learns, boxes are as loose and points as far from the middle as a hand is.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_LOOSE = 0.1
"""Standard deviation of a drawn box's edges, in its sides."""


def box_of(mask: NDArray[np.bool_], rng: np.random.Generator | None = None) -> NDArray[np.float32]:
    """The box around a mask, (4,) as x0, y0, x1, y1.

    Args:
        mask: (H, W), not empty.
        rng: draws a loose one; without it the box is tight.
    """
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    box = np.array([columns[0], rows[0], columns[-1], rows[-1]], np.float64)
    if rng is not None:
        sides = np.maximum(box[2:] - box[:2], 1.0)
        box += rng.normal(0, _LOOSE, 4) * np.tile(sides, 2)
        height, width = mask.shape
        box = np.clip(np.sort(box.reshape(2, 2), axis=0).ravel(), 0, [width - 1, height - 1] * 2)
    return box.astype(np.float32)


def point_of(
    mask: NDArray[np.bool_], rng: np.random.Generator | None = None
) -> NDArray[np.float32]:
    """A point inside a mask, (2,) as x, y.

    Args:
        mask: (H, W), not empty.
        rng: draws any pixel of it; without it the one farthest from the edge is taken.
    """
    if rng is None:
        depths = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
        row, column = np.unravel_index(int(depths.argmax()), mask.shape)
    else:
        places = np.argwhere(mask)
        row, column = places[rng.integers(len(places))]
    return np.array([column, row], np.float32)
