"""Perturbations by the way of the sound: a shadow behind what stops it, haze from echoes of echoes.

Both are strengths in decibels on the logarithmic grey scale of `perturbation`.
"""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from llava_ultra.perturbations.perturbation import DYNAMIC_RANGE_DB, Perturbation, add_decibels

if TYPE_CHECKING:
    import numpy as np

_EDGE = 0.15
"""Share of a shadow's width over which its edge fades, on each side."""
_HAZE_DEPTH = 0.4
"""Depth over which haze falls to 1/e, share of the picture's height: reverberation is near."""
_SCAN = 0.04
"""Side of the neighbourhood that tells the scan from the black around it, of the longer side."""
_GRAIN = 0.006
"""Standard deviation of a grain of haze, share of the longer side."""


class ShadowPerturbation(Perturbation):
    """An acoustic shadow: behind a stone, a rib or lost contact a strip of the picture is dark."""

    type: Literal["shadow"] = "shadow"
    most_db: float = Field(default=35, gt=0)
    """Deepest attenuation."""
    widest: float = Field(default=0.3, gt=0, le=1)
    """Largest width, share of the picture's."""

    def apply(
        self, image: "np.ndarray", strength: float, rng: "np.random.Generator"
    ) -> "np.ndarray":
        """Darken a strip from a depth in the upper half down; strength widens and deepens it."""
        import numpy as np

        height, width = image.shape[:2]
        middle, top = rng.uniform(0.25, 0.75), rng.uniform(0, 0.5)
        half = max(self.widest * strength / 2, 1e-6)
        across = np.abs(np.linspace(0, 1, width) - middle)
        inside = np.clip((half - across) / (2 * half * _EDGE), 0, 1)
        below = np.linspace(0, 1, height) >= top
        loss = -self.most_db * strength * below[:, None] * inside[None, :]
        return add_decibels(image, loss.astype(np.float32))


class HazePerturbation(Perturbation):
    """Reverberation clutter: a grainy veil over the near field, which fills what is free of echo.

    Its amplitude is added to that of the echo. What lies outside the scan stays black.
    """

    type: Literal["haze"] = "haze"
    loudest_db: float = Field(default=-22, lt=0, ge=-DYNAMIC_RANGE_DB)
    """Level at the surface at full strength, below white."""

    def apply(
        self, image: "np.ndarray", strength: float, rng: "np.random.Generator"
    ) -> "np.ndarray":
        """Lay a veil whose decibels above black go with the strength."""
        import cv2
        import numpy as np

        if not strength:
            return image
        longer = max(image.shape[:2])
        grey = image.astype(np.float32) if image.ndim == 2 else image.mean(axis=2, dtype=np.float32)
        side = max(3, round(_SCAN * longer) | 1)
        scanned = cv2.blur((grey > 0).astype(np.float32), (side, side)) > 0.5
        parts = rng.standard_normal((2, *grey.shape), dtype=np.float32)
        sigma = _GRAIN * longer
        smooth = [cv2.GaussianBlur(part, (0, 0), sigmaX=sigma) for part in parts]
        grain = np.hypot(*smooth)  # a sum of many echoes: Rayleigh
        grain /= max(float(grain.mean()), 1e-6)
        level = -DYNAMIC_RANGE_DB + strength * (DYNAMIC_RANGE_DB + self.loudest_db)
        fading = np.exp(-np.linspace(0, 1, len(grey), dtype=np.float32) / _HAZE_DEPTH)[:, None]
        veil = 10 ** (level / 20) * grain * fading * scanned
        echo = 10 ** ((grey / 255 - 1) * DYNAMIC_RANGE_DB / 20)
        louder = 20 * np.log10((echo + veil) / echo) * (255 / DYNAMIC_RANGE_DB)
        added = louder if image.ndim == 2 else louder[..., None]
        veiled: np.ndarray = np.clip(np.rint(image + added), 0, 255).astype(np.uint8)
        return veiled
