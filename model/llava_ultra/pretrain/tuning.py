"""Tuning of the towers through a trained model: they learn from the answers, end to end.

Eagle (arXiv 2408.15998) learns with unfrozen encoders throughout, and finds that it helps each of
them. Here features are stored once, so that towers stay as they are while a model trains; they
learn in a run of their own that goes on where its last stage ended. Along with them learns what
that stage taught, connector and adapters, at one rate, so that the gradient which a tower gets is
that of a model which follows it. What is kept are the towers: features are computed anew, and a
model is trained on them from the start.

Axes: B studies, K images (the most of any study), P tokens, C channels, S side of a tower's input.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from llava_ultra.batch import TextBatch, VisualBatch
from llava_ultra.model import LlavaUltra
from llava_ultra.pretrain.loop import OnStep, optimise, shuffled_batches
from llava_ultra.pretrain.tune_config import TuneConfig, learning_towers
from llava_ultra.recognition.pairs import Pairs
from llava_ultra.towers.mix.mix_config import OWN_TOWERS
from llava_ultra.towers.pixels import normalise, to_canvases
from llava_ultra.towers.tower import Tower


@dataclass(frozen=True, kw_only=True, slots=True)
class TuneStep:
    """What a step learns from: B studies."""

    studies: Sequence[Sequence[np.ndarray]]
    """The images of each, uint8 of any size."""
    text: TextBatch
    pairs: Pairs | None = None
    """What recognition learns from, where it is trained for."""


def tune_towers(
    model: LlavaUltra,
    towers: Mapping[str, Tower],
    read: Callable[[Sequence[int]], TuneStep],
    num_studies: int,
    config: TuneConfig,
    on_step: OnStep | None = None,
    *,
    device: torch.device | str = "cpu",
) -> list[float]:
    """Train towers in place, and with them whatever of the model asks for gradients.

    Args:
        model: the trained model; its losses are those of its training.
        towers: all of them, by name, in the order of the model's.
        read: gives the studies of these numbers.
        num_studies: how many there are.
        config: how to train; `config.towers` says which learn.
        on_step: progress callback.
        device: where all of it runs.

    Returns:
        The loss of each step. Standardisers are as they were: whoever keeps a tower fits its own.

    Raises:
        ValueError: a tower is unknown, there are fewer studies than a batch, or a loss became NaN
            or infinite.
    """
    learning = learning_towers(model.config, config)
    if num_studies < config.batch_size:
        raise ValueError(
            f"{num_studies} training studies are fewer than tune.batch_size {config.batch_size}; "
            "lower it"
        )
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    batches = shuffled_batches(num_studies, config.batch_size, generator)
    learned = nn.ModuleDict({"model": model.to(device)})
    for name, tower in towers.items():
        assert isinstance(tower, nn.Module)
        tower.to(device).requires_grad_(name in learning)
        if name in learning:
            learned[name] = tower

    def step_loss() -> Tensor:
        step = read(next(batches).tolist())
        visual = encode_studies(
            towers, step.studies, learning, images_at_once=config.images_at_once, device=device
        )
        pairs = None if step.pairs is None else step.pairs.to(device)
        loss: Tensor = model(visual.to(device), step.text.to(device), pairs=pairs).loss
        return loss

    def post(step: int, total: int, loss: float) -> None:
        model.after_step()
        if on_step is not None:
            on_step(step, total, loss)

    losses = optimise(learned, config, step_loss, post)
    for tower in towers.values():
        assert isinstance(tower, nn.Module)
        tower.to("cpu").requires_grad_(requires_grad=False)
    return losses


def encode_studies(
    towers: Mapping[str, Tower],
    studies: Sequence[Sequence[np.ndarray]],
    learning: Collection[str],
    *,
    images_at_once: int = 0,
    device: torch.device | str = "cpu",
) -> VisualBatch:
    """Encode studies' images, with a gradient where a tower learns, and pad them to K images.

    Args:
        towers: by name.
        studies: uint8 images of any sizes of each.
        learning: names of the towers that get a gradient.
        images_at_once: most images whose activations a tower that learns keeps; 0 keeps all.
        device: of the towers.
    """
    counts = [len(images) for images in studies]
    images = [image for each in studies for image in each]
    padded = {}
    for name, tower in towers.items():
        canvases = to_canvases(images, tower.image_size, tower.intensity)
        pixels = normalise(canvases, *tower.pixel_statistics).to(device)
        with nullcontext() if name in learning else torch.no_grad():
            features = _encode(tower, pixels, images_at_once)
        own = torch.tensor_split(features, np.cumsum(counts)[:-1].tolist())
        rows = [F.pad(each, (0, 0, 0, 0, 0, max(counts) - len(each))) for each in own]
        padded[name] = torch.stack(rows)
    return VisualBatch(
        clip=padded["clip"],
        sam=padded["sam"],
        image_mask=torch.arange(max(counts)) < torch.tensor(counts)[:, None],
        more={name: each for name, each in padded.items() if name not in OWN_TOWERS},
    )


def _encode(tower: Tower, pixels: Tensor, at_once: int) -> Tensor:
    """Features (N, P, C), float32, of pixels (N, 3, S, S)."""
    if not at_once or len(pixels) <= at_once:
        return tower(pixels).float()
    pieces = torch.split(pixels, at_once)
    if not torch.is_grad_enabled():
        return torch.cat([tower(piece) for piece in pieces]).float()
    return torch.cat([checkpoint(tower, each, use_reentrant=False) for each in pieces]).float()
