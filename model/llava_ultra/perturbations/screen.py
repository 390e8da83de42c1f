"""Perturbations by the scanner's screen: what is drawn over the picture, and its colours."""

from math import ceil
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from llava_ultra.perturbations.perturbation import Perturbation

if TYPE_CHECKING:
    import numpy as np

_WHITE = 255
_ARM = 0.02
"""Half of a caliper's cross, share of the longer side."""
_DASH = 0.02
"""A dash of the line between two calipers, and the gap behind it, share of the longer side."""


class CaliperPerturbation(Perturbation):
    """Pairs of calipers with a dashed line between them, as a measurement leaves on a picture."""

    type: Literal["caliper"] = "caliper"
    most: int = Field(default=4, ge=1)
    """Pairs at full strength."""

    def apply(
        self, image: "np.ndarray", strength: float, rng: "np.random.Generator"
    ) -> "np.ndarray":
        """Draw white crosses and lines; the first pair lies where it lay at less strength."""
        import cv2
        import numpy as np

        drawn = image.copy()
        height, width = image.shape[:2]
        arm, dash = (max(2, round(share * max(height, width))) for share in (_ARM, _DASH))
        white = (_WHITE,) * 3 if image.ndim == 3 else (_WHITE,)
        for _ in range(ceil(self.most * strength)):
            ends = rng.uniform(0.2, 0.8, (2, 2)) * (width, height)
            for x, y in np.rint(ends).astype(int).tolist():
                cv2.line(drawn, (x - arm, y), (x + arm, y), white)
                cv2.line(drawn, (x, y - arm), (x, y + arm), white)
            number = int(np.linalg.norm(ends[1] - ends[0])) // dash
            for start in range(1, number, 2):
                points = [ends[0] + (ends[1] - ends[0]) * (start + on) / number for on in (0, 1)]
                first, last = (tuple(np.rint(point).astype(int).tolist()) for point in points)
                cv2.line(drawn, first, last, white)
        return drawn


class TintPerturbation(Perturbation):
    """A colour map over the greys (chroma), as scanners offer; the picture has three channels.

    Luminance is what it was, as far as a colour of the screen has it.
    """

    type: Literal["tint"] = "tint"
    most: float = Field(default=0.8, gt=0, le=1)
    """Share of the colour at full strength."""

    def apply(
        self, image: "np.ndarray", strength: float, rng: "np.random.Generator"
    ) -> "np.ndarray":
        """Blend with the greys in a random hue; a grey picture becomes (H, W, 3)."""
        import colorsys

        import numpy as np

        if not strength:
            return image
        colours = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
        hue = np.array(colorsys.hsv_to_rgb(rng.random(), 1, 1), np.float32)
        hue /= hue @ np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601 luma
        share = self.most * strength
        tinted = np.clip(np.rint(colours * (1 - share + share * hue)), 0, 255)
        coloured: np.ndarray = tinted.astype(np.uint8)
        return coloured
