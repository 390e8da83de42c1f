"""How a segmenter learns: masks of pairs of image and instruction, each step with another prompt.

A step's images are drawn anew, half of them with something to outline and half without, where the
prompt may mean nothing: boxes and points are drawn around something. The loss is that of the
encoder's own pretraining, binary cross-entropy and Dice, and SAM's of the quality: the squared
distance from the IoU of the mask that it came with.

Axes: N images, I instructions, L mask levels, M mask values along a side, D width of states.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llava_ultra.pretrain.loop import OnStep, optimise
from llava_ultra.pretrain.masks import mask_loss
from llava_ultra.segmentation.prompting import box_of, point_of
from llava_ultra.segmentation.segmentation_config import PromptName
from llava_ultra.segmentation.segmenter import Prompt, Segmenter, SegmenterShape

_HALF = 128
"""Of 255: from here on a mask's value is inside."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Examples:
    """Images and what instructions mean in them."""

    features: Callable[[Sequence[int]], npt.NDArray[Any]]
    """Of images by number, (N, P, C2) float16 or float32: SAM's, as they are cached."""
    masks: npt.NDArray[np.uint8]
    """(N, 1 + L, M, M): share of each value that the whole mask covers, then each level, of 255."""
    targets: npt.NDArray[np.int64]
    """(N, I): which of the L + 1 masks an instruction means; -1 where it means nothing there."""
    states: npt.NDArray[np.float32]
    """(N, I, D), the decoder's behind each instruction."""

    def meant(self, image: int, instruction: int) -> npt.NDArray[np.uint8]:
        """The mask (M, M) that an instruction means in an image."""
        target = self.targets[image, instruction]
        if target < 0:
            return np.zeros(self.masks.shape[2:], np.uint8)
        found: npt.NDArray[np.uint8] = self.masks[image, target]
        return found


def learn(
    examples: Examples,
    shape: SegmenterShape,
    on_step: OnStep | None = None,
    device: str = "cpu",
) -> tuple[Segmenter, list[float]]:
    """Teach a segmenter.

    Args:
        examples: training images.
        shape: what it is built for, with how it learns.
        on_step: progress callback.
        device: where it learns.

    Returns:
        It, in evaluation mode on that device, and the loss of each step.

    Raises:
        ValueError: nothing is meant in any image, or the loss became NaN or infinite.
    """
    settings = shape.settings
    filled = [
        (image, instruction)
        for image, instruction in np.argwhere(examples.targets >= 0).tolist()
        if (examples.meant(image, instruction) >= _HALF).any()
    ]
    if not filled:
        raise ValueError(
            "no instruction means anything in a training image; check segment.instructions: the "
            "level must be a value of the masks, the labels of where must be the dataset's"
        )
    num_images, num_instructions = examples.targets.shape
    every = itertools.product(range(num_images), range(num_instructions))
    empty = sorted(set(every).difference(filled))
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(settings.seed)
        rng = np.random.default_rng(settings.seed)
        segmenter = Segmenter(shape)
        segmenter.fit_states(torch.from_numpy(examples.states).flatten(0, 1))
        segmenter.to(device)
        draw = _batches(filled, empty, settings.batch_size, rng)
        turns = itertools.cycle(settings.prompts)

        def step_loss() -> Tensor:
            name = next(turns)
            pairs = draw(name in ("words", "none"))
            masks = np.stack([examples.meant(*pair) for pair in pairs])
            prompt = _prompt(name, examples, pairs, masks, shape, rng).to(device)
            features = torch.from_numpy(examples.features([image for image, _ in pairs]))
            logits, quality = segmenter(features.to(device), prompt, settings.noise)
            target = torch.from_numpy(masks).to(device).float() / 255
            loss = mask_loss(logits[:, None], target[:, None])
            of_quality: Tensor = (quality - iou(logits > 0, target >= 0.5)).square().mean()
            return loss + of_quality

        losses = optimise(segmenter, settings, step_loss, on_step)
    return segmenter, losses


def iou(found: Tensor, truth: Tensor) -> Tensor:
    """Intersection over union of masks (N, M, M) bool: (N,) float32; 1 where both are empty."""
    both = (found & truth).sum(dim=(1, 2))
    either = (found | truth).sum(dim=(1, 2))
    return torch.where(either > 0, both / either.clamp(min=1), 1.0)


Pair = tuple[int, int]
"""An image and an instruction, by number."""


def _batches(
    filled: Sequence[Pair], empty: Sequence[Pair], size: int, rng: np.random.Generator
) -> Callable[[bool], list[Pair]]:
    """Returns pairs of a step: with something to outline, and half without where that may be."""

    def draw(may_be_empty: bool) -> list[Pair]:
        num_empty = size // 2 if may_be_empty and empty else 0
        chosen = [filled[at] for at in rng.integers(len(filled), size=size - num_empty)]
        return chosen + [empty[at] for at in rng.integers(max(1, len(empty)), size=num_empty)]

    return draw


def _prompt(
    name: PromptName,
    examples: Examples,
    pairs: Sequence[Pair],
    masks: npt.NDArray[np.uint8],
    shape: SegmenterShape,
    rng: np.random.Generator,
) -> Prompt:
    """What a step's images are prompted with."""
    if name == "words":
        states = np.stack([examples.states[pair] for pair in pairs])
        return Prompt(states=torch.from_numpy(states))
    if name == "none":
        return Prompt()
    cell = shape.image_size / shape.mask_size
    draw = box_of if name == "boxes" else point_of
    drawn = np.stack([draw(mask >= _HALF, rng) for mask in masks])
    places = torch.from_numpy((drawn + 0.5) * cell - 0.5)  # from middles of cells to pixels
    return Prompt(boxes=places) if name == "boxes" else Prompt(points=places)
