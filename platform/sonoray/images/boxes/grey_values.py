"""From stored numbers to 8 bits, for files that hold arrays and not pictures.

Volumes and HDF5 files hold numbers of any kind, and which of them is white often stands nowhere.
What is taken is only what leaves no doubt: 8 bits as they are; the window that the file names; else
values within 0 to 255 as 8 bits, and fractions within 0 to 1 as shares of white. Anything else, as
signed values of another machine, is refused: a guessed window would make one brightness mean
different things in different files.

A segmentation is stored like a picture, and would be one that shows the truth. It has few small
numbers, or one number beside 0.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sonoray.images.decode import Pixels, RejectedImageError

_MOST_LABELS = 15
"""Highest value of what is taken for numbers of organs; as grey it would be black."""


def find_range(
    values: NDArray[Any], window: tuple[float, float] | None = None
) -> tuple[float, float]:
    """Which value of a whole file is shown black and which white.

    Args:
        values: all of them, `(N, ...)` or `(H, W)`, of any kind of number; looked at in slices of
            the first axis, since they may fill half of the memory there is.
        window: what the file itself says, if it does.

    Raises:
        RejectedImageError: `label_map` or `unsupported_mode`.
    """
    if values.dtype.kind not in "uif" or not values.size:
        raise RejectedImageError(
            f"unsupported_mode: values of {values.dtype}; save the picture as 8 bits"
        )
    low, high = float(values.min()), float(values.max())
    is_whole = values.dtype.kind in "ui" or all((each == np.rint(each)).all() for each in values)
    if is_whole and ((low >= 0 and high <= _MOST_LABELS) or _is_binary(values, high)):
        raise RejectedImageError(
            f"label_map: whole numbers from {low:g} to {high:g}, as a segmentation has; remove "
            "it, or save the picture as 8 bits"
        )
    if values.dtype == np.uint8:
        return 0, 255
    if window is not None and -np.inf < window[0] < window[1] < np.inf:
        return window
    if low >= 0 and high <= 1:
        return 0, 1
    if low >= 0 and high <= 255:
        return 0, 255
    raise RejectedImageError(
        f"unsupported_mode: {values.dtype} from {low:g} to {high:g}, and the file does not say "
        "which values to show; save it as 8 bits"
    )


def to_grey(values: NDArray[Any], shown: tuple[float, float]) -> Pixels:
    """Bring the values of one frame to uint8 of its shape; `shown` is that of `find_range`."""
    low, high = shown
    if values.dtype == np.uint8 and (low, high) == (0, 255):
        unchanged: Pixels = np.ascontiguousarray(values)
        return unchanged
    scaled = (values.astype(np.float64) - low) * (255 / (high - low))
    grey: Pixels = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return grey


def _is_binary(values: NDArray[Any], high: float) -> bool:
    """Whether all are 0 or `high`, and some 0."""
    if high <= 0 or not all(((each == 0) | (each == high)).all() for each in values):
        return False
    return any((each == 0).any() for each in values)
