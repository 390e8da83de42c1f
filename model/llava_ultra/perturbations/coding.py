"""A perturbation by storage: lossy compression."""

import io
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from llava_ultra.perturbations.perturbation import Perturbation

if TYPE_CHECKING:
    import numpy as np

_BEST = 95


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
