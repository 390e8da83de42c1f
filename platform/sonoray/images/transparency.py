"""Transparent pixels over black: what an editor erased stays erased.

Under a transparent pixel any colour may stand: an editor that erases leaves the name there, and a
converter writes noise. Readers that drop the alpha channel bring it back, so every decoder here
lays the picture over black first, as a viewer on a dark desktop shows it.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

LAID_OVER_BLACK = "transparent pixels laid over black"
"""What is told of a picture that has some."""


def over_black(
    colours: npt.NDArray[np.uint8], alpha: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint8]:
    """Lay a picture over black.

    Args:
        colours: uint8 `(H, W)` or `(H, W, 3)`, not premultiplied.
        alpha: uint8 `(H, W)`, 0 where nothing is to be seen.

    Returns:
        uint8 of the colours' shape.
    """
    weights: npt.NDArray[Any] = alpha.astype(np.uint16)
    if colours.ndim == 3:
        weights = weights[..., None]
    laid: npt.NDArray[np.uint8] = ((colours * weights + 127) // 255).astype(np.uint8)
    return laid
