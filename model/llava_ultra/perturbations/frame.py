"""Perturbations of the whole frame: depth setting, cropping, lossy compression."""

import io
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from llava_ultra.perturbations.perturbation import Perturbation

if TYPE_CHECKING:
    import numpy as np

_LEAST_SIDE = 16
"""Pixels that a crop leaves at least, as many as a tower asks for."""
_BEST = 95
"""Quality of the least compression."""


class ZoomPerturbation(Perturbation):
    """Another depth or width: a part of the picture, or the picture with black around it."""

    type: Literal["zoom"] = "zoom"
    moves: ClassVar[bool] = True
    most: float = Field(default=1.4, gt=1)
    """Largest magnification, of height and width each; the smallest is its inverse."""

    def apply(
        self, image: "np.ndarray", strength: float, rng: "np.random.Generator"
    ) -> "np.ndarray":
        """Crop or pad each side by itself; no pixel is resampled."""
        import numpy as np

        for axis in (0, 1):
            side = image.shape[axis]
            other = max(_LEAST_SIDE, round(side * self.most ** rng.uniform(-strength, strength)))
            shift = rng.random()
            if other <= side:
                start = round(shift * (side - other))
                image = image.take(range(start, start + other), axis=axis)
            else:
                before = round(shift * (other - side))
                widths = [(0, 0)] * image.ndim
                widths[axis] = (before, other - side - before)
                image = np.pad(image, widths)
        return image


class JpegPerturbation(Perturbation):
    """JPEG, as archives and screenshots leave it."""

    type: Literal["jpeg"] = "jpeg"
    worst_quality: int = Field(default=25, ge=1, le=_BEST)
    """Quality at full strength; the least is 95."""

    def apply(
        self, image: "np.ndarray", strength: float, rng: "np.random.Generator"
    ) -> "np.ndarray":
        """Encode and decode; nothing is left to chance."""
        import numpy as np
        from PIL import Image

        if not strength:
            return image
        coded = io.BytesIO()
        quality = round(_BEST - strength * (_BEST - self.worst_quality))
        Image.fromarray(image).save(coded, "jpeg", quality=quality)
        return np.array(Image.open(coded))
