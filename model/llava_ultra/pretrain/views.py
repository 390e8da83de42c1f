"""The images that a tower's pretraining sees: another view of each, every time.

An image is perturbed at the tower's size (`llava_ultra.perturbations`), its greys are standardised
as the tower's configuration says, and the batch is zoomed, shifted and mirrored
(`llava_ultra.towers.pixels.random_views`). A mask follows its image.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from llava_ultra.perturbations.gallery import draw_views
from llava_ultra.pretrain.pretrain_config import TowerPretrainConfig
from llava_ultra.towers.pixels import normalise, random_views, to_canvas, to_canvases, to_masks
from llava_ultra.towers.tower_config import IntensityName

_SEEDS = 2**62


class ViewMaker:
    """Draws views of a set of images, and of their masks where there are any."""

    def __init__(
        self,
        images: Sequence[np.ndarray],
        size: int,
        config: TowerPretrainConfig,
        generator: torch.Generator,
        *,
        intensity: IntensityName = "none",
        masks: Sequence[np.ndarray] = (),
        mask_size: int = 0,
        mask_levels: Sequence[int] = (),
    ) -> None:
        """Bring all images to the tower's size.

        Args:
            images: N uint8 images of any sizes.
            size: side of the views (S), pixels.
            config: how views are varied.
            generator: source of randomness.
            intensity: how greys are standardised; of a perturbed image after that, as those of
                another scanner are.
            masks: N uint8 masks (H, W), of the images' sizes; or none.
            mask_size: side of the masks' views (M).
            mask_levels: see `to_masks`.
        """
        self._config, self._generator = config, generator
        self._size, self._intensity = size, intensity
        self._mask_size, self._mask_levels = mask_size, mask_levels
        self._masks = masks
        if not config.perturbations:
            self._canvases = to_canvases(images, size, intensity)
            return
        self._canvases = to_canvases(images, size)
        self._shown = [
            _without_padding(image, canvas)
            for image, canvas in zip(images, self._canvases, strict=True)
        ]
        self._masks = [
            np.asarray(Image.fromarray(mask).resize(shown.shape[1::-1], Image.Resampling.NEAREST))
            for mask, shown in zip(masks, self._shown, strict=False)
        ]

    def draw(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """Views of the images (B,) that an index names.

        Returns:
            Pixels (B, 3, S, S), float32, and masks (B, T, M, M), float32, None without any.
        """
        numbers = index.tolist()
        masks = [self._masks[number] for number in numbers] if self._masks else []
        if self._config.perturbations:
            canvases, masks = self._perturb(numbers, masks)
        else:
            canvases = self._canvases[numbers]
        targets = to_masks(masks, self._mask_size, self._mask_levels) if masks else None
        return random_views(
            normalise(canvases), self._generator, targets, mirror=self._config.mirror
        )

    def _perturb(
        self, numbers: Sequence[int], masks: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Canvases uint8 (B, S, S, 3) and masks of the perturbed images."""
        seeds = torch.randint(_SEEDS, (len(numbers),), generator=self._generator).tolist()
        canvases, moved = [], []
        for place, (number, seed) in enumerate(zip(numbers, seeds, strict=True)):
            mask = masks[place] if masks else None
            view, mask = draw_views(self._shown[number], mask, self._config.perturbations, seed)
            canvases.append(to_canvas(view, self._size, self._intensity))
            if mask is not None:
                moved.append(mask)
        return np.stack(canvases), moved


def _without_padding(image: np.ndarray, canvas: np.ndarray) -> np.ndarray:
    """The part of a canvas that shows its image, one channel where it is grey."""
    scale = len(canvas) / max(image.shape[:2])
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    shown = canvas[:height, :width]
    return shown[..., 0] if image.ndim == 2 else shown
