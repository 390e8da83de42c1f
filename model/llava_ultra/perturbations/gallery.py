"""The perturbations there are, and views of an image that draw from them.

A view is a function of the image, the list and a seed alone. One after another, in the order of the
list, each perturbation is part of it with its `rate`, at a strength that is uniform in 0..1.
"""

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from llava_ultra.perturbations.artefacts import HazePerturbation, ShadowPerturbation
from llava_ultra.perturbations.echo import GainPerturbation, GammaPerturbation
from llava_ultra.perturbations.frame import JpegPerturbation, ZoomPerturbation
from llava_ultra.perturbations.screen import CaliperPerturbation, TintPerturbation
from llava_ultra.perturbations.texture import BlurPerturbation, SpecklePerturbation

if TYPE_CHECKING:
    import numpy as np

PerturbationConfig = Annotated[
    GainPerturbation
    | GammaPerturbation
    | SpecklePerturbation
    | BlurPerturbation
    | ZoomPerturbation
    | JpegPerturbation
    | ShadowPerturbation
    | HazePerturbation
    | CaliperPerturbation
    | TintPerturbation,
    Field(discriminator="type"),
]

GALLERY: tuple[PerturbationConfig, ...] = (
    ZoomPerturbation(),
    BlurPerturbation(),
    GainPerturbation(),
    SpecklePerturbation(),
    GammaPerturbation(),
    JpegPerturbation(),
)
"""What a training draws from by default, in the order in which they come about: probe, beam, echo,
display, archive."""

PERTURBATIONS: tuple[PerturbationConfig, ...] = (
    *GALLERY,
    ShadowPerturbation(),
    HazePerturbation(),
    CaliperPerturbation(),
    TintPerturbation(),
)
"""All of them: a judgement of robustness also shows what no training drew."""


def draw_view(
    image: "np.ndarray", perturbations: Sequence[PerturbationConfig], seed: int
) -> "np.ndarray":
    """Return the view of an image that a seed stands for, uint8 like the image.

    Args:
        image: uint8, (H, W) or (H, W, 3).
        perturbations: what may happen to it.
        seed: another one draws another view.
    """
    return draw_views(image, None, perturbations, seed)[0]


def draw_views(
    image: "np.ndarray",
    mask: "np.ndarray | None",
    perturbations: Sequence[PerturbationConfig],
    seed: int,
) -> "tuple[np.ndarray, np.ndarray | None]":
    """As `draw_view`; the mask, uint8 (H, W), goes where its image's pixels go."""
    import numpy as np

    rng = np.random.default_rng(seed)
    for perturbation in perturbations:
        if rng.random() >= perturbation.rate:
            continue
        strength = float(rng.random())
        if perturbation.moves and mask is not None:
            mask = perturbation.apply(mask, strength, copy.deepcopy(rng))
        image = perturbation.apply(image, strength, rng)
    return image, mask
