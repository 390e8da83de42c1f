"""OCR of a page with the package `rapidocr`: where text stands, and what it says.

PP-OCRv6's small detector and recogniser, both files of the package: they are named by path, so that
nothing is ever fetched. They run in onnxruntime on one thread, about 3 s of CPU time for a page of
20 lines; actors are what a machine is filled with. A page that may stand upside down is read both
ways up, and the reading with more certain characters stands. The package's classifier of lines is
not used: on bad scans it takes about half of the upright lines for turned ones.

Importing the package costs 1.3 s of CPU time (requests, omegaconf, shapely) and makes a logger
`RapidOCR` with a handler of its own, which is silenced here; the root logger is left alone.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sonoray.errors import DataError
from sonoray.images.decode import Pixels

_MODELS = {
    "Det": "PP-OCRv6_det_small.onnx",
    "Rec": "PP-OCRv6_rec_small.onnx",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TextBox:
    """One piece of text on a page."""

    corners: NDArray[np.float64]
    """(4, 2) pixels, x and y, of the page as it is read: top left, top right, bottom right, bottom
    left."""
    text: str
    score: float
    """Mean probability of its characters."""


class PageReader:
    """The networks, loaded once; for one thread."""

    def __init__(self, *, upside_down: bool = False) -> None:
        """Load the networks.

        Args:
            upside_down: whether a page may stand upside down; it is read twice then.

        Raises:
            DataError: the package lacks one.
        """
        from rapidocr import RapidOCR

        self._upside_down = upside_down
        paths = {f"{part}.model_path": str(_model(name)) for part, name in _MODELS.items()}
        self._engine: Any = RapidOCR(
            params={
                **paths,
                "Global.use_cls": False,
                "Global.log_level": "critical",
                "EngineConfig.onnxruntime.intra_op_num_threads": 1,
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            }
        )

    def read(self, pixels: Pixels) -> list[TextBox]:
        """Read a page; empty where nothing can be read.

        Args:
            pixels: uint8 (H, W) or (H, W, 3) RGB. Pages with a side above 2,000 pixels are read
                smaller.
        """
        colours = np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels
        upright = self._pieces(colours)
        if not self._upside_down:
            return upright
        return max(upright, self._pieces(colours[::-1, ::-1]), key=_certainty)

    def _pieces(self, colours: Pixels) -> list[TextBox]:
        found = self._engine(np.ascontiguousarray(colours[..., ::-1]))
        if found.txts is None:
            return []
        return [
            TextBox(corners=np.asarray(corners, np.float64), text=text.strip(), score=float(score))
            for corners, text, score in zip(found.boxes, found.txts, found.scores, strict=True)
            if text.strip()
        ]


def _certainty(boxes: Sequence[TextBox]) -> float:
    """Characters that are right by their own account."""
    return sum(box.score * len(box.text) for box in boxes)


def _model(name: str) -> Path:
    """Where the package keeps a network."""
    found = importlib.util.find_spec("rapidocr")
    for place in (found.submodule_search_locations or ()) if found else ():
        if (path := Path(place) / "models" / name).is_file():
            return path
    raise DataError(
        f"the package rapidocr has no {name}, which reads pages; install the versions of "
        "requirements.lock"
    )
