"""Brings the greys of images of different scanners together, before a tower sees them.

Gain, dynamic range and grey curve are settings of the console: the same tissue is darker on one
machine than on the next. What is black carries no echo (beside the scan, padding) and is left out
of all statistics; it stays black. A standardisation is part of a tower's configuration and so of
its fingerprint, of its pretraining and of what an export serves.
"""

import numpy as np

from llava_ultra.towers.tower_config import IntensityName

BLACK = 4
"""Grey values below it are no echo; JPEG leaves up to 3 in what was black."""

QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
REFERENCE = (34, 38, 41, 51, 71, 103, 137, 157, 198)
"""Grey values at `QUANTILES`: medians over the 836 images of 472 patients of BUS-BRA. Its two
GE scanners alone have medians of 58 and 88 at one half, and black levels of 18 and 40."""

_CLIP_LIMIT = 2.0
_TILES = (6, 6)
"""Of CLAHE; the tiles are those of the box around what is not black."""


def standardise_intensity(image: np.ndarray, how: IntensityName) -> np.ndarray:
    """Return the image, uint8 (H, W) or (H, W, 3), with standardised greys; its colours stay."""
    if how == "none":
        return image
    luma = image if image.ndim == 2 else _luma(image)
    if int(luma.max(initial=0)) < BLACK:
        return image
    if how == "quantile":
        curved: np.ndarray = _grey_curve(luma)[image]
        return curved
    spread = _spread(luma)
    if image.ndim == 2:
        return spread
    gain = spread.astype(np.float32) / np.maximum(luma, 1)
    coloured: np.ndarray = np.clip(np.rint(image * gain[..., None]), 0, 255).astype(np.uint8)
    return coloured


def _luma(image: np.ndarray) -> np.ndarray:
    if np.array_equal(image[..., 0], image[..., 1]) and np.array_equal(
        image[..., 0], image[..., 2]
    ):
        return np.ascontiguousarray(image[..., 0])
    weighed = image @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    luma: np.ndarray = np.rint(weighed).astype(np.uint8)
    return luma


def _grey_curve(luma: np.ndarray) -> np.ndarray:
    """The curve, uint8 (256,), that brings an image's quantiles to the reference's."""
    counts = np.bincount(luma.ravel(), minlength=256)
    counts[:BLACK] = 0
    # greys are steps: a quantile is where the middles of the steps reach it
    ranks = (np.cumsum(counts) - counts / 2) / counts.sum()
    found = np.interp(QUANTILES, ranks[BLACK:], np.arange(BLACK, 256))
    levels, place = np.unique([0, *found, 255], return_inverse=True)
    # where one level holds several quantiles, the middle of theirs
    targets = np.bincount(place, [0, *REFERENCE, 255]) / np.bincount(place)
    curve = np.interp(np.arange(256), levels, targets)
    curve[:BLACK] = np.arange(BLACK)
    return np.rint(curve).astype(np.uint8)


def _spread(luma: np.ndarray) -> np.ndarray:
    """CLAHE inside the box of what is not black."""
    import cv2

    shown = luma >= BLACK
    rows, columns = np.flatnonzero(shown.any(axis=1)), np.flatnonzero(shown.any(axis=0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    out = luma.copy()
    out[box] = cv2.createCLAHE(_CLIP_LIMIT, _TILES).apply(np.ascontiguousarray(luma[box]))
    return np.where(shown, out, luma)
