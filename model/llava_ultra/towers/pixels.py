"""From uint8 images to tower inputs, and the random views that pretraining sees.

Both towers letterbox: the longer side is resized to the input size and the rest padded with black
at the right and bottom, as SAM does. CLIP's own centre crop would cut away image and, worse, shift
its patch grid against SAM's, so that the fusion would add tokens of different places. Then the
greys are standardised, where a tower's configuration says so (`llava_ultra.towers.intensity`).
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from llava_ultra.towers.intensity import standardise_intensity
from llava_ultra.towers.tower_config import IntensityName

PREPROCESSING = "letterbox-bilinear-v1"
"""Name of what is done to pixels, part of a tower's fingerprint and so of its features' place.

Weights and configuration do not tell what the code makes of them. Whoever changes features by a
change of code raises the number; a test holds the code that it is about.
"""

MIN_SIDE = 16
"""Smallest image side, pixels: below it a patch would show nothing."""

# Mean and standard deviation of grey B-mode images after scaling to 0..1, rounded; the same for
# all three channels because B-mode is grey.
_MEAN, _STD = 0.25, 0.25

PIXEL_MEAN, PIXEL_STD = (_MEAN,) * 3, (_STD,) * 3
"""What the towers that are trained here are given; adopted ones bring their own."""


def letterbox(image: np.ndarray, size: int) -> np.ndarray:
    """Resize the longer side to `size` and pad with black at the right and bottom.

    Args:
        image: uint8, (H, W) or (H, W, 3).
        size: side of the square result, pixels.

    Returns:
        The canvas, uint8 (size, size, 3).

    Raises:
        ValueError: the image is no uint8 picture, or smaller than 16 pixels on a side.
    """
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)):
        raise ValueError(
            f"an image is {image.dtype} of shape {image.shape}; give uint8 (H, W) or (H, W, 3)"
        )
    if min(image.shape[:2]) < MIN_SIDE:
        raise ValueError(
            f"an image is {image.shape[1]} x {image.shape[0]} pixels; the smallest side is "
            f"{MIN_SIDE}: send the whole frame"
        )
    canvas = Image.new("RGB", (size, size))
    canvas.paste(_fit(Image.fromarray(image).convert("RGB"), size))
    return np.asarray(canvas)


def normalise(
    canvases: np.ndarray,
    mean: tuple[float, float, float] = PIXEL_MEAN,
    std: tuple[float, float, float] = PIXEL_STD,
) -> Tensor:
    """Canvases, uint8 (N, S, S, 3), to pixels (N, 3, S, S), float32.

    Black padding becomes `-mean / std`, also for an adopted SAM, whose own pipeline pads with 0.
    """
    values = torch.from_numpy(np.ascontiguousarray(canvases.transpose(0, 3, 1, 2)))
    shape = (1, 3, 1, 1)
    return (values.float() / 255 - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)


def to_canvas(image: np.ndarray, size: int, intensity: IntensityName) -> np.ndarray:
    """What a tower is shown of an image: letterboxed, its greys standardised; as `letterbox`.

    In this order, because the greys of speckle depend on the size that it is brought to.
    """
    return standardise_intensity(letterbox(image, size), intensity)


def to_canvases(
    images: Sequence[np.ndarray], size: int, intensity: IntensityName = "none"
) -> np.ndarray:
    """Canvases of images of any sizes: to uint8 (N, size, size, 3), a quarter of pixels' memory."""
    return np.stack([to_canvas(image, size, intensity) for image in images])


def to_pixels(images: Sequence[np.ndarray], size: int) -> Tensor:
    """Letterbox and normalise images of any sizes: to (N, 3, size, size), float32."""
    return normalise(to_canvases(images, size))


def to_masks(masks: Sequence[np.ndarray], size: int, levels: Sequence[int] = ()) -> Tensor:
    """Letterbox lesion masks as `to_pixels` does their images.

    Args:
        masks: uint8 arrays (H, W), non-zero inside the lesion.
        size: side of the square result, pixels.
        levels: values whose pixels are a target of their own.

    Returns:
        Tensor (N, 1 + number of levels, size, size), float32: the share of each pixel covered by
        the lesion, then by each level, in 0..1.
    """
    grids = []
    for mask in masks:
        for inside in (mask > 0, *(mask == level for level in levels)):
            canvas = Image.new("L", (size, size))
            canvas.paste(_fit(Image.fromarray(inside.astype(np.uint8) * 255), size))
            grids.append(torch.from_numpy(np.asarray(canvas, dtype=np.float32) / 255))
    return torch.stack(grids).view(len(masks), 1 + len(levels), size, size)


def random_views(
    pixels: Tensor,
    generator: torch.Generator,
    masks: Tensor | None = None,
    *,
    mirror: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Augment a batch: zoom by 0.85 to 1.15, shift by up to 8 %, change gain by up to 20 %.

    Args:
        pixels: (N, 3, S, S).
        generator: source of randomness.
        masks: (N, T, M, M), moved in the same way as the pixels.
        mirror: swap left and right in half of the views.

    Returns:
        The views and their masks, in the given shapes.
    """
    num = pixels.shape[0]

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator) * (high - low) + low

    zoom = uniform(0.85, 1.15, num)
    side = torch.where(torch.rand(num, generator=generator) < 0.5, -1.0 if mirror else 1.0, 1.0)
    theta = torch.zeros(num, 2, 3)
    theta[:, 0, 0] = zoom * side
    theta[:, 1, 1] = zoom
    theta[:, :, 2] = uniform(-0.16, 0.16, num, 2)  # the grid spans -1..1, so 0.16 is 8 %
    gain = uniform(0.8, 1.2, num, 1, 1, 1)
    floor = -_MEAN / _STD  # what black becomes; the padding stays black
    # B-mode is grey: moving one channel instead of three takes a quarter off a step of SAM
    grey = torch.equal(pixels[:, 0], pixels[:, 1]) and torch.equal(pixels[:, 0], pixels[:, 2])
    moved = pixels[:, :1] if grey else pixels
    grid = F.affine_grid(theta, list(moved.shape), align_corners=False)
    views = F.grid_sample(moved - floor, grid, align_corners=False) * gain + floor
    views = views.expand_as(pixels)
    if masks is None:
        return views, None
    mask_grid = F.affine_grid(theta, list(masks.shape), align_corners=False)
    return views, F.grid_sample(masks, mask_grid, align_corners=False)


def _fit(image: Image.Image, size: int) -> Image.Image:
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=None)
