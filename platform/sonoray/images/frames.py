"""A cine loop, and which of its frames become images.

A loop of a hundred frames shows little more than ten of them, and neighbours are near duplicates.
Both ways take the middles of equal stretches: `uniform` of time, `change` of the change that has
added up, so that a probe held still gives fewer frames than one that sweeps.

Time is what timestamps say: a scanner that stores a frame for each heartbeat, a recording of
variable rate and a film that stands still have stretches of few frames and of many. Whole numbers
keep it exact, so that a constant rate gives the same frames as counting does.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median_low

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sonoray.images.decode import Pixels

_SIDE = 32
"""Side of the small pictures that are compared: speckle averages out, anatomy stays."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Frame:
    """One chosen frame of a loop."""

    index: int
    """Position in the loop, from 0; what a DICOM trim leaves out counts, hidden frames do not."""
    pixels: Pixels


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Loop:
    """What becomes of a file that shows a loop, or a picture."""

    frames: tuple[Frame, ...]
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels of each of its images: the physical size of a pixel."""
    notes: tuple[str, ...] = ()
    """What was done to it beside decoding, or left out, in words that carry no patient's text."""


def spread(count: int, wanted: int) -> tuple[int, ...]:
    """Middles of `wanted` equal stretches of `range(count)`; all of it where it is shorter."""
    if count <= wanted:
        return tuple(range(count))
    return tuple((2 * number + 1) * count // (2 * wanted) for number in range(wanted))


def spread_in_time(starts: Sequence[int | None], wanted: int, *, last: int = 0) -> tuple[int, ...]:
    """Positions of `wanted` frames that are shown in the middles of equal stretches of time.

    A frame that is shown for several stretches is taken once, and its neighbours for the others.

    Args:
        starts: when each frame is shown, in order and in any unit; None where it is not known.
        wanted: how many; all come back where there are no more.
        last: for how long the last one is shown; 0 for the usual time between two.

    Returns:
        Growing positions. Where times are missing or go back, those of `spread`.
    """
    count = len(starts)
    times = [start for start in starts if start is not None]
    steps = [after - before for before, after in pairwise(times)]
    if count <= wanted or len(times) < count or min(steps) < 0:
        return spread(count, wanted)
    first, total = times[0], times[-1] - times[0] + (last if last > 0 else median_low(steps))
    if total <= 0:
        return spread(count, wanted)
    chosen: list[int] = []
    for number in range(wanted):
        # the middle is (2 number + 1) total / (2 wanted); multiplied, it stays whole
        shown = bisect_right(
            times, (2 * number + 1) * total, key=lambda time: 2 * wanted * (time - first)
        )
        lowest = chosen[-1] + 1 if chosen else 0
        chosen.append(min(max(shown - 1, lowest), count - wanted + number))
    return tuple(chosen)


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


def take_frames(
    read: Callable[[int], Pixels],
    starts: Sequence[int | None],
    wanted: int,
    *,
    by_change: bool = False,
    last: int = 0,
) -> tuple[Frame, ...]:
    """Read the chosen frames of a file that gives any of its frames at once.

    Args:
        read: brings the frame at a position to uint8 `(H, W)` or `(H, W, 3)`.
        starts: when each frame is shown, as for `spread_in_time`.
        wanted: how many.
        by_change: whether equal shares of change are taken instead of equal stretches of time.
        last: for how long the last one is shown; 0 for the usual time between two.
    """
    if by_change and len(starts) > wanted:
        small = np.stack([shrink(read(index)) for index in range(len(starts))])
        chosen = choose_by_change(small, wanted)
    else:
        chosen = spread_in_time(starts, wanted, last=last)
    return tuple(Frame(index=index, pixels=read(index)) for index in chosen)
