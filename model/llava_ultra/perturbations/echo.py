"""Perturbations of the echo's loudness: gain over depth, grey curve."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from llava_ultra.perturbations.perturbation import Perturbation, add_decibels

if TYPE_CHECKING:
    import numpy as np


_SLIDERS = 5
"""Depths that a slider of the console sets; between them the gain is interpolated."""


class GainPerturbation(Perturbation):
    """Overall gain and a time-gain curve: each slider of the console somewhere else."""

    type: Literal["gain"] = "gain"
    most_db: float = Field(default=8, gt=0)
    """Farthest that a slider moves, up or down."""

    def apply(
        self, image: "np.ndarray", strength: float, rng: "np.random.Generator"
    ) -> "np.ndarray":
        """Half of the strength goes to all depths alike, half to each by itself."""
        import numpy as np

        most = self.most_db * strength / 2
        overall = most * (1 if rng.random() < 0.5 else -1)
        curve = overall + rng.uniform(-most, most, _SLIDERS)
        depths = np.linspace(0, _SLIDERS - 1, len(image))
        gain = np.interp(depths, np.arange(_SLIDERS), curve).astype(np.float32)
        return add_decibels(image, gain[:, None])


class GammaPerturbation(Perturbation):
    """Another grey curve (post-processing, dynamic range): mid greys move, black and white stay."""

    type: Literal["gamma"] = "gamma"
    most: float = Field(default=1.8, gt=1)
    """Largest exponent; the smallest is its inverse."""

    def apply(
        self, image: "np.ndarray", strength: float, rng: "np.random.Generator"
    ) -> "np.ndarray":
        """Brighten or darken."""
        import numpy as np

        exponent = self.most ** (strength if rng.random() < 0.5 else -strength)
        curve = np.rint(255 * (np.arange(256) / 255) ** exponent).astype(np.uint8)
        curved: np.ndarray = curve[image]
        return curved
