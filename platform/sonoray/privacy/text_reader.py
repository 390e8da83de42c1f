"""Reading of a line of text: what the recogniser makes of a crop, and where its characters stand.

The judge of `burned_in_text`. The network is PP-OCRv6's small recogniser as the package `rapidocr`
ships it, 18,708 characters of most scripts. It runs in onnxruntime on one thread, 7 ms for a line
three times as long as high and 13 ms for one of seven times. The package itself is not imported:
its detector takes 205 ms of CPU time for 1024 x 768 pixels, seven times what all of this search
may, and boxes most pictures that have no text.

The same crop gives the same reading: one thread adds in one order.
"""

import importlib.util
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sonoray.errors import DataError
from sonoray.images.decode import Pixels

_MODEL = "models/PP-OCRv6_rec_small.onnx"
_HEIGHT = 48
"""Pixels: height of what the network reads."""
_STEP = 8
"""Pixels of its width for which it names one character, or none."""
_WIDEST = 3200
"""Pixels of its width: a longer line is read squeezed."""
_CERTAIN = 0.5
"""Probability from which a character counts. Speckle has hardly one above 0.25, and text of 8
pixels most above 0.8."""

_GAP = 0.75
"""Of the crop's height: characters farther apart are not of one run."""

_lock = threading.Lock()
_loaded: list["_Network"] = []


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What was read of a crop."""

    text: str
    """Its certain characters."""
    sum_chances: float
    """Sum of the probabilities of the letters and digits that differ, uncertain ones too."""
    places: NDArray[np.float64]
    """Where about characters stand, in pixels of the crop from the left: the certain ones, and
    others close to one."""


def read_line(crop: Pixels) -> Reading:
    """Read one line of text.

    Args:
        crop: uint8 `(H, W)` or `(H, W, 3)`, the line with a little room around it.
    """
    network = _load()
    height, width = crop.shape[:2]
    wide = min(max(round(_HEIGHT * width / height), _STEP), _WIDEST)
    # always brought to whole steps: padding would be read as well
    wide = -(-wide // _STEP) * _STEP
    method = cv2.INTER_AREA if height > _HEIGHT else cv2.INTER_LINEAR
    resized = cv2.resize(crop, (wide, _HEIGHT), interpolation=method)
    colours = resized[..., ::-1] if resized.ndim == 3 else np.repeat(resized[..., None], 3, axis=2)
    batch = (colours.transpose(2, 0, 1)[None].astype(np.float32) / 127.5) - 1
    (chances,) = network.session.run(None, {network.input: batch})
    best = chances[0].argmax(axis=1)
    certain = chances[0].max(axis=1) >= _CERTAIN
    begins = np.ones(len(best), bool)
    begins[1:] = best[1:] != best[:-1]
    named = begins & (best > 0)
    steps = np.flatnonzero(named)
    # a run of characters is kept whole where one of them is certain
    run = np.cumsum(np.diff(steps, prepend=0) > _GAP * _HEIGHT / _STEP)
    kept = np.isin(run, run[certain[steps]]) if certain[steps].any() else np.ones(len(run), bool)
    return Reading(
        text="".join(network.characters[place] for place in best[steps[certain[steps]]]),
        sum_chances=sum(
            float(chances[0][steps, each].max())
            for each in np.unique(best[steps])
            if network.characters[each].isalnum()
        ),
        places=(steps[kept] + 0.5) * width / len(best),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Network:
    session: Any
    input: str
    characters: tuple[str, ...]
    """By index of the network's classes; the first says that there is none."""


def _load() -> _Network:
    """Load the network once a process; it may be run by several threads."""
    with _lock:
        if not _loaded:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            options.enable_cpu_mem_arena = False  # it would keep the room of the longest line
            options.log_severity_level = 4
            session = onnxruntime.InferenceSession(
                _model_path(), options, providers=["CPUExecutionProvider"]
            )
            listed = session.get_modelmeta().custom_metadata_map["character"].splitlines()
            characters = ("", *listed, " ")
            name = session.get_inputs()[0].name
            _loaded.append(_Network(session=session, input=name, characters=characters))
        return _loaded[0]


def _model_path() -> Path:
    """Where the package keeps the network; it is found without being imported."""
    found = importlib.util.find_spec("rapidocr")
    places = (found.submodule_search_locations or ()) if found else ()
    for place in places:
        if (path := Path(place) / _MODEL).is_file():
            return path
    raise DataError(
        f"the package rapidocr has no {_MODEL}, which reads burned-in text; install the versions "
        "of requirements.lock, or set ingest.burned_in_text=keep"
    )
