"""The interface of a perturbation, and the grey scale that all of them work on.

Images are uint8, (H, W) or (H, W, 3), and stay so; only what `moves` pixels changes their size.
B-mode is the logarithm of an echo: a gain in decibels is a number of grey values, with
`DYNAMIC_RANGE_DB` from black to white. What is black (outside the scan, no echo) stays black.
"""

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from llava_ultra.towers.tower_config import ModelPart

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

DYNAMIC_RANGE_DB = 60.0
"""Echo amplitudes from black to white, a usual setting of scanners: 4.25 grey values a decibel."""


class Perturbation(ModelPart):
    """Base of all perturbations."""

    moves: ClassVar[bool] = False
    """Whether it puts pixels elsewhere, so that a mask has to follow."""

    rate: float = Field(default=0.5, ge=0, le=1)
    """Share of the drawn views that it is part of."""

    def apply(
        self, image: "np.ndarray", strength: float, rng: "np.random.Generator"
    ) -> "np.ndarray":
        """Perturb an image.

        Args:
            image: uint8, (H, W) or (H, W, 3).
            strength: 0 leaves the image as it is, 1 goes as far as the configuration allows.
            rng: decides what the strength leaves open, such as a direction.

        Returns:
            The image, of the given type; in colour where the perturbation colours.
        """
        raise NotImplementedError


def add_decibels(image: "np.ndarray", decibels: "npt.NDArray[np.float32]") -> "np.ndarray":
    """Amplify the echoes of an image by a field of decibels, (H, W) or what broadcasts to it."""
    import numpy as np

    added = decibels * np.float32(255 / DYNAMIC_RANGE_DB)
    if image.ndim == 3:
        added = added[..., None]
    louder = np.clip(np.rint(image + added), 0, 255)
    return np.where(image > 0, louder, 0).astype(np.uint8)
