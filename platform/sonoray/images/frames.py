"""Which frames of a cine loop become images.

A loop of a hundred frames shows little more than ten of them, and neighbours are near duplicates.
Both ways take the middles of equal stretches: `uniform` of time, `change` of the change that has
added up, so that a probe held still gives fewer frames than one that sweeps.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sonoray.images.decode import Pixels

_SIDE = 32
"""Side of the small pictures that are compared: speckle averages out, anatomy stays."""


def spread(count: int, wanted: int) -> tuple[int, ...]:
    """Middles of `wanted` equal stretches of `range(count)`; all of it where it is shorter."""
    if count <= wanted:
        return tuple(range(count))
    return tuple((2 * number + 1) * count // (2 * wanted) for number in range(wanted))


def shrink(frame: Pixels) -> NDArray[np.float32]:
    """Box-average a uint8 `(H, W)` or `(H, W, 3)` frame to a grey float32 `(32, 32)`."""
    small = Image.fromarray(frame).convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32)


def choose_by_change(small: NDArray[np.float32], wanted: int) -> tuple[int, ...]:
    """Positions of at most `wanted` frames at the middles of equal shares of change.

    Args:
        small: shrunken frames in order, `(N, 32, 32)`.
        wanted: how many; fewer come back where one jump holds several shares.
    """
    if len(small) <= wanted:
        return tuple(range(len(small)))
    steps = np.abs(np.diff(small, axis=0)).mean(axis=(1, 2))
    change = np.concatenate([[0.0], np.cumsum(steps, dtype=np.float64)])
    if change[-1] == 0:
        return (len(small) // 2,)
    shares = (np.arange(wanted) + 0.5) / wanted * change[-1]
    # the nearer of the two frames that a share lies between
    after = np.searchsorted(change, shares)
    before = after - 1
    nearer = np.where(shares - change[before] <= change[after] - shares, before, after)
    return tuple(int(position) for position in np.unique(nearer))
