"""When the frames of a DICOM loop are shown, and which are.

Frame Time Vector holds the milliseconds from each frame to the next; a loop that was triggered by
heartbeats has long ones and short ones. Without it the rate is constant and counting is enough.
Start Trim and Stop Trim say which frames a viewer plays; the sonographer set them, and what lies
outside is often the way to the finding or the freeze after it.

A vector or a trim that does not fit the number of frames belongs to another loop, and says nothing
of this one, as with regions that leave the picture.

Source: DICOM PS3.3 section C.7.6.5 (Cine module).
"""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from pydicom.dataset import Dataset

LEFT_OUT = "trimmed: frames outside Start Trim and Stop Trim are left out"
ODD_TRIM = "odd_trim: objects whose trim does not fit their frames are taken whole"
ODD_TIMES = "odd_times: objects whose Frame Time Vector does not fit are taken by number"


def describe_times(data: Dataset, count: int) -> dict[str, int]:
    """What was left out of `count` frames, or not believed, and how often: remarks for ingest."""
    said = [_number(data.get("StartTrim"), missing=1), _number(data.get("StopTrim"), missing=count)]
    has_odd_vector = _listed(data.get("FrameTimeVector")) and None in find_starts(data, count)
    left_out = count - len(find_shown(data, count))
    remarks = {
        LEFT_OUT: left_out,
        ODD_TRIM: int(not left_out and said != [1, count]),
        ODD_TIMES: int(bool(has_odd_vector)),
    }
    return {remark: number for remark, number in remarks.items() if number}


def find_shown(data: Dataset, count: int) -> range:
    """Positions, from 0, of those of `count` frames that are to be shown."""
    first = _number(data.get("StartTrim"), missing=1)
    last = _number(data.get("StopTrim"), missing=count)
    return range(first - 1, last) if 1 <= first <= last <= count else range(count)


def find_starts(data: Dataset, count: int) -> list[int | None]:
    """When each of `count` frames is shown, in microseconds; None where nothing says it."""
    vector = data.get("FrameTimeVector")
    steps = [_microseconds(step) for step in _listed(vector)]
    if len(steps) == count - 1:  # some leave out the first, which is 0
        steps = [0, *steps]
    known = [step for step in steps if step is not None and step >= 0]
    if len(known) < len(steps) or len(steps) != count:
        return [None] * count
    return list(accumulate(known[1:], initial=0))


def _listed(value: Any) -> Sequence[Any]:  # noqa: ANN401 - whatever the attribute holds
    """Values of an attribute that may have one, several or none."""
    if value in (None, ""):
        return ()
    return value if isinstance(value, Sequence) and not isinstance(value, str) else (value,)


def _microseconds(milliseconds: Any) -> int | None:  # noqa: ANN401 - whatever the attribute holds
    try:
        value = float(milliseconds)
    except (TypeError, ValueError):
        return None
    return round(value * 1000) if math.isfinite(value) else None


def _number(value: Any, *, missing: int) -> int:  # noqa: ANN401 - whatever the attribute holds
    if value in (None, ""):
        return missing
    try:
        return int(value)
    except (TypeError, ValueError):
        return 0
