"""Supervised pretraining of the SAM encoder on lesion masks.

A light decoder (two convolutions at the encoder's grid, `subgrid x subgrid` mask values per cell)
is trained with the encoder on binary cross-entropy plus Dice and then thrown away: what counts is
that the encoder's features tell lesion from tissue and know where the edge runs.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llava_ultra.config import SamConfig, SamPretrainConfig
from llava_ultra.pixels import random_views, to_masks, to_pixels
from llava_ultra.pretrain.loop import OnStep, optimise, shuffled_batches
from llava_ultra.towers import SamTower, fit_standardiser

_SUBGRID = 4
"""Mask values along each side of a grid cell: with 16-pixel patches, one for 4 x 4 pixels."""


class MaskDecoder(nn.Module):
    """Features (N, C, h, w) to mask logits (N, 4h, 4w)."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(num_channels, 64, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(64, _SUBGRID**2, 1),
            nn.PixelShuffle(_SUBGRID),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Decode features to mask logits."""
        logits: Tensor = self.layers(features)
        return logits[:, 0]


class _Segmenter(nn.Module):
    def __init__(self, tower: SamTower) -> None:
        super().__init__()
        self.tower = tower
        self.decoder = MaskDecoder(tower.config.out_channels)

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.decoder(self.tower.encoder(pixels))
        return logits


def pretrain_sam(
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    model_config: SamConfig,
    config: SamPretrainConfig,
    *,
    target_grid: int,
    on_step: OnStep | None = None,
) -> tuple[SamTower, list[float]]:
    """Train a SAM encoder from its seed.

    Args:
        images: N uint8 images.
        masks: N uint8 masks (H, W) of the same sizes, non-zero inside the lesion; all zero where
            there is none.
        model_config: the tower's shape.
        config: how to train.
        target_grid: CLIP's grid, to which the tower brings its own.
        on_step: progress callback.

    Returns:
        The tower in evaluation mode, and the loss of each step.

    Raises:
        ValueError: counts or sizes differ, or there are fewer images than a batch.
    """
    if len(images) != len(masks):
        raise ValueError(f"{len(images)} images but {len(masks)} masks; give one each")
    for number, (image, mask) in enumerate(zip(images, masks, strict=True)):
        if image.shape[:2] != mask.shape[:2]:
            raise ValueError(
                f"image {number} is {image.shape[:2]} but its mask {mask.shape[:2]}; "
                "they must have the same height and width"
            )
    images, masks = images[: config.max_examples], masks[: config.max_examples]
    if len(images) < config.batch_size:
        raise ValueError(
            f"{len(images)} images with masks are fewer than sam batch_size {config.batch_size}; "
            "lower it"
        )
    torch.manual_seed(config.seed)
    segmenter = _Segmenter(SamTower(model_config, target_grid=target_grid))
    pixels = to_pixels(images, model_config.image_size)
    targets = to_masks(masks, model_config.grid * _SUBGRID)
    generator = torch.Generator().manual_seed(config.seed)
    batches = shuffled_batches(len(images), config.batch_size, generator)

    def step_loss() -> Tensor:
        index = next(batches)
        views, moved = random_views(pixels[index], generator, targets[index])
        assert moved is not None
        return mask_loss(segmenter(views), moved)

    losses = optimise(segmenter, config, step_loss, on_step)
    fit_standardiser(segmenter.tower, pixels)
    return segmenter.tower, losses


def mask_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy plus Dice loss, both over (N, H, W).

    Dice is taken over the whole batch, so that images without a lesion stay defined.
    """
    probability = logits.sigmoid()
    overlap = (probability * target).sum()
    dice = 1 - (2 * overlap + 1) / (probability.sum() + target.sum() + 1)
    return F.binary_cross_entropy_with_logits(logits, target) + dice
