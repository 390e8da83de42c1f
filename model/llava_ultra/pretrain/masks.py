"""Supervised pretraining of the SAM encoder on lesion masks, and on captions where asked to.

A light decoder (two convolutions at the encoder's grid, `subgrid x subgrid` mask values per cell)
is trained with the encoder on binary cross-entropy plus Dice and then thrown away: what counts is
that the encoder's features tell lesion from tissue and know where the edge runs.

With so little data, masks alone teach the fine signs slowly. A second head may therefore name the
words of the image's caption from the mean and the maximum of the features (`word_weight`).
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llava_ultra.config import SamConfig
from llava_ultra.pretrain.loop import OnStep, optimise, shuffled_batches
from llava_ultra.pretrain.pretrain_config import SamPretrainConfig
from llava_ultra.pretrain.views import ViewMaker
from llava_ultra.towers.sam import SamTower

_SUBGRID = 4
"""Mask values along each side of a grid cell: with 16-pixel patches, one for 4 x 4 pixels."""


class MaskDecoder(nn.Module):
    """Features (N, C, h, w) to the logits of T masks (N, T, 4h, 4w)."""

    def __init__(self, num_channels: int, num_masks: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(num_channels, 64, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(64, num_masks * _SUBGRID**2, 1),
            nn.PixelShuffle(_SUBGRID),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Decode features to mask logits."""
        logits: Tensor = self.layers(features)
        return logits


class _Segmenter(nn.Module):
    def __init__(self, tower: SamTower, num_masks: int, num_words: int) -> None:
        super().__init__()
        self.tower = tower
        num_channels = tower.config.out_channels
        self.decoder = MaskDecoder(num_channels, num_masks)
        self.name_words = nn.Linear(2 * num_channels, num_words) if num_words else None

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits of masks (N, T, H, W) and of words (N, V), None without words."""
        features = self.tower.encoder(pixels)
        masks: Tensor = self.decoder(features)
        if self.name_words is None:
            return masks, None
        pooled = torch.cat([features.mean(dim=(2, 3)), features.amax(dim=(2, 3))], dim=1)
        return masks, self.name_words(pooled)


def pretrain_sam(
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    model_config: SamConfig,
    config: SamPretrainConfig,
    *,
    target_grid: int,
    words: Tensor | None = None,
    on_step: OnStep | None = None,
) -> tuple[SamTower, list[float]]:
    """Train a SAM encoder from its seed.

    Args:
        images: N uint8 images.
        masks: N uint8 masks (H, W) of the same sizes, non-zero inside the lesion; all zero where
            there is none.
        model_config: the tower's shape.
        config: how to train.
        target_grid: CLIP's grid, to which the tower brings its own; training does not use it.
        words: (N, V), 1 where a word stands in an image's caption; needed with a `word_weight`.
        on_step: progress callback.

    Returns:
        The tower in evaluation mode, its standardiser fresh, and the loss of each step.

    Raises:
        ValueError: counts or sizes differ, there are fewer images than a batch, a level is in no
            mask, or words are missing.
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
            f"{len(images)} images with masks are fewer than bootstrap.sam.batch_size "
            f"{config.batch_size}; lower it"
        )
    for level in config.mask_levels:
        if not any((mask == level).any() for mask in masks):
            raise ValueError(f"no mask holds the value {level} of mask_levels; leave it out")
    if config.word_weight and words is None:
        raise ValueError(f"word_weight is {config.word_weight:g} but no words are given")
    if not config.word_weight:
        words = None
    torch.manual_seed(config.seed)
    tower = SamTower(model_config, target_grid=target_grid)
    num_words = 0 if words is None else words.shape[1]
    segmenter = _Segmenter(tower, 1 + len(config.mask_levels), num_words)
    generator = torch.Generator().manual_seed(config.seed)
    batches = shuffled_batches(len(images), config.batch_size, generator)
    maker = ViewMaker(
        images,
        model_config.image_size,
        config,
        generator,
        intensity=model_config.intensity,
        masks=masks,
        mask_size=model_config.grid * _SUBGRID,
        mask_levels=config.mask_levels,
    )

    def step_loss() -> Tensor:
        index = next(batches)
        views, moved = maker.draw(index)
        assert moved is not None
        mask_logits, word_logits = segmenter(views)
        loss = mask_loss(mask_logits, moved)
        if word_logits is not None and words is not None:
            naming = F.binary_cross_entropy_with_logits(word_logits, words[index])
            loss = loss + config.word_weight * naming
        return loss

    losses = optimise(segmenter, config, step_loss, on_step)
    return segmenter.tower, losses


def thin_blanks(shows_lesion: Sequence[bool], share: float) -> list[int]:
    """Positions of all images with a lesion and of an evenly spread share of those without."""
    used, blanks = [], 0
    for position, shows in enumerate(shows_lesion):
        blanks += not shows
        if shows or int(blanks * share) > int((blanks - 1) * share):
            used.append(position)
    return used


def mask_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy plus Dice loss over (N, T, H, W): a mean over the T masks.

    Dice is taken over the whole batch, so that images without a lesion stay defined.
    """
    probability = logits.sigmoid()
    extent = (0, 2, 3)
    overlap = (probability * target).sum(dim=extent)
    dice = 1 - (2 * overlap + 1) / (probability.sum(dim=extent) + target.sum(dim=extent) + 1)
    return F.binary_cross_entropy_with_logits(logits, target) + dice.mean()
