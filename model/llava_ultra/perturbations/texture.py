"""Perturbations of the fine structure: speckle, and a beam that widens with depth."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from llava_ultra.perturbations.perturbation import Perturbation, add_decibels

if TYPE_CHECKING:
    import numpy as np

_GRAIN_LONG, _GRAIN_WIDE = 0.7, 1.2
"""Standard deviation of a speckle grain along and across the beam, pixels of a 200-pixel image."""
_GRAIN_OF = 200


class SpecklePerturbation(Perturbation):
    """Further speckle: correlated noise on the logarithm of the echo, wider than long."""

    type: Literal["speckle"] = "speckle"
    most_db: float = Field(default=2.5, gt=0)
    """Largest standard deviation; fully developed speckle has 5.6."""

    def apply(
        self, image: "np.ndarray", strength: float, rng: "np.random.Generator"
    ) -> "np.ndarray":
        """Add noise of this strength."""
        import numpy as np

        if not strength:
            return image
        grain = max(image.shape[:2]) / _GRAIN_OF
        noise = rng.standard_normal(image.shape[:2], dtype=np.float32)
        noise = _smooth(noise, along=_GRAIN_LONG * grain, across=_GRAIN_WIDE * grain)
        noise *= self.most_db * strength / max(float(noise.std()), 1e-6)
        return add_decibels(image, noise)


class BlurPerturbation(Perturbation):
    """A coarser beam: blur that grows from the surface down, across the beam more than along it."""

    type: Literal["blur"] = "blur"
    most: float = Field(default=0.012, gt=0)
    """Largest standard deviation across the beam at the bottom, in shares of the longer side."""

    def apply(
        self, image: "np.ndarray", strength: float, rng: "np.random.Generator"
    ) -> "np.ndarray":
        """Blur from a random depth on."""
        import numpy as np

        sigma = self.most * strength * max(image.shape[:2])
        if not sigma:
            return image
        sharp = image.astype(np.float32)
        depth = np.linspace(0, 1, len(image), dtype=np.float32)
        share = np.clip(depth + rng.uniform(0, 0.5), 0, 1).reshape(-1, *[1] * (image.ndim - 1))
        smooth = _smooth(sharp, along=sigma / 2, across=sigma)
        blurred: np.ndarray = np.rint(sharp + share * (smooth - sharp)).astype(np.uint8)
        return blurred


def _smooth(values: "np.ndarray", *, along: float, across: float) -> "np.ndarray":
    """Gaussian blur of (H, W) or (H, W, 3), float32; standard deviations in pixels."""
    import cv2

    return cv2.GaussianBlur(values, (0, 0), sigmaX=across, sigmaY=along)
