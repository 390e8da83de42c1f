"""How well a mask covers the true one: Dice and intersection over union.

Of two empty masks both are 1: nothing was to be found and nothing was. Where one alone is empty
both are 0, so that means over images without a target are shares of images left empty.
"""

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
"""(H, W), True inside."""


def dice(found: Mask, truth: Mask) -> float:
    """Twice the common area over the sum of both, in 0..1."""
    both = int(np.count_nonzero(found & truth))
    total = int(np.count_nonzero(found)) + int(np.count_nonzero(truth))
    return 2 * both / total if total else 1.0


def overlap_ratio(found: Mask, truth: Mask) -> float:
    """Common area over that of either (IoU), in 0..1."""
    either = int(np.count_nonzero(found | truth))
    return int(np.count_nonzero(found & truth)) / either if either else 1.0
