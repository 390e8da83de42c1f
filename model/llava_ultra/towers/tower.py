"""What the two image encoders share: their interface, their standardiser, their saved form.

Axes: N images, P tokens per image, C channels.

`llava_ultra.towers.clip` and `llava_ultra.towers.sam` hold one encoder each, so that a process
loads the library of the one that it runs. Both stay frozen in the road: what they compute is cached
under their fingerprint. Either is trained in the road or adopted (`llava_ultra.towers.adopt`), and
the config says which of its layers it hands out.

Both hand out standardised channels. Most of a tower's output is the same for every image (in the
tiny SAM the images' means differ by 0.06 around 0.88), and in the tiny road's 170 steps a connector
that has to find the difference first learns next to nothing; measured in docs/results.md.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from llava_ultra.digests.state_digest import check_digest, state_digest
from llava_ultra.towers.pixels import PREPROCESSING, normalise, to_canvas, to_canvases
from llava_ultra.towers.tower_config import ChannelStatistics, IntensityName

WEIGHTS = "weights.safetensors"
CONFIG = "tower.json"

FIT_IMAGES = 512
"""Most images that a standardiser is fitted on: 18,000 tokens of the tiny towers."""
_FIT_BATCH = 64
_LEAST_DEVIATION = 1e-4
ADOPTED_FIT_IMAGES = 64
"""Images to fit an adopted tower's standardiser on, one by one: at 1,024 pixels a SAM image has
4,096 tokens, and its global attention holds 16 million values per head."""

TowerModule = TypeVar("TowerModule", bound=nn.Module)


class Standardiser(nn.Module):
    """Brings every channel to mean 0 and standard deviation 1 over the images it was fitted on.

    Fresh, it changes nothing; mean and deviation are part of the tower's weights.
    """

    mean: Tensor
    """(C,), float32."""
    deviation: Tensor
    """(C,), float32, above 0."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_channels))
        self.register_buffer("deviation", torch.ones(num_channels))

    def forward(self, features: Tensor) -> Tensor:
        """Standardise (..., C)."""
        return (features - self.mean) / self.deviation


class Tower(Protocol):
    """What the road needs of an image encoder, whichever it is."""

    standardise: Standardiser
    """The last step of its forward pass."""

    @property
    def fingerprint(self) -> str:
        """Sha256 (hex) over weights, preprocessing, layer, grid and dtype."""
        ...

    @property
    def num_tokens(self) -> int:
        """Tokens per image (P)."""
        ...

    @property
    def num_channels(self) -> int:
        """Channels per token (C)."""
        ...

    @property
    def image_size(self) -> int:
        """Side of the square input (S), pixels."""
        ...

    @property
    def intensity(self) -> IntensityName:
        """How the greys are standardised."""
        ...

    @property
    def pixel_statistics(self) -> tuple[ChannelStatistics, ChannelStatistics]:
        """Mean and standard deviation that the pixels are normalised with."""
        ...

    def __call__(self, pixels: Tensor) -> Tensor:
        """Pixels (N, 3, S, S) to features (N, P, C)."""
        ...

    def save(self, folder: Path) -> None:
        """Write weights and configuration into `folder`."""
        ...


@torch.no_grad()
def encode_canvases(tower: Tower, canvases: np.ndarray, device: torch.device | str) -> Tensor:
    """Encode letterboxed images: uint8 (N, S, S, 3) to features (N, P, C), float32."""
    return tower(normalise(canvases, *tower.pixel_statistics).to(device)).float()


def encode_images(tower: Tower, images: Sequence[np.ndarray], device: torch.device | str) -> Tensor:
    """Encode uint8 images of any sizes to features (N, P, C), float32."""
    canvases = to_canvases(images, tower.image_size, tower.intensity)
    return encode_canvases(tower, canvases, device)


def fit_standardiser(tower: Tower, canvases: np.ndarray) -> None:
    """Fit a tower's standardiser on canvases, uint8 (N, S, S, 3), of which it takes at most 512."""
    chosen = canvases[:: math.ceil(len(canvases) / FIT_IMAGES)]
    starts = range(0, len(chosen), _FIT_BATCH)
    _fit(tower, (normalise(chosen[at : at + _FIT_BATCH]) for at in starts))


def fit_adopted(tower: Tower, images: Sequence[np.ndarray]) -> None:
    """Fit an adopted tower's standardiser on uint8 images of any sizes, one by one."""
    size, intensity = tower.image_size, tower.intensity
    canvases = (to_canvas(image, size, intensity)[None] for image in images)
    _fit(tower, (normalise(canvas, *tower.pixel_statistics) for canvas in canvases))


@torch.no_grad()
def _fit(tower: Tower, batches: Iterable[Tensor]) -> None:
    tower.standardise = Standardiser(tower.num_channels)
    features = torch.cat([tower(batch) for batch in batches]).flatten(0, 1)
    tower.standardise.mean.copy_(features.mean(dim=0))
    # a channel that never moves is left at its size
    deviation = features.std(dim=0, correction=0)
    tower.standardise.deviation.copy_(torch.where(deviation > _LEAST_DEVIATION, deviation, 1.0))


def fingerprint_of(kind: str, config: dict[str, object], state: dict[str, Tensor]) -> str:
    """Sha256 (hex) over kind, preprocessing, configuration and weights of a tower.

    Without a standardisation of greys it is that of a tower from before there were any.
    """
    if config["intensity"] == "none":
        config = {name: value for name, value in config.items() if name != "intensity"}
    parts = json.dumps([kind, PREPROCESSING, config, state_digest(state)], sort_keys=True)
    return hashlib.sha256(parts.encode()).hexdigest()


def save_tower(module: nn.Module, folder: Path, values: dict[str, object]) -> None:
    """Write a tower's weights, and `values` with their digest as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    save_file(state, folder / WEIGHTS)
    text = json.dumps({**values, "digest": state_digest(state)}, indent=1)
    (folder / CONFIG).write_text(text, encoding="utf-8")


def read_tower(folder: Path) -> dict[str, Any]:
    """Read the values that a tower was saved with, and the digest of its weights.

    Raises:
        ValueError: files are missing.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ValueError(f"tower folder {str(folder)!r} lacks {name}; bootstrap it again")
    values: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    return values


def load_weights(tower: TowerModule, folder: Path, digest: str) -> TowerModule:
    """Fill a tower with the saved weights; returns it, set to evaluation.

    Raises:
        ValueError: the weights do not have that digest.
    """
    state = load_file(folder / WEIGHTS)
    check_digest(str(folder / WEIGHTS), found=state_digest(state), expected=digest)
    tower.load_state_dict(state)
    tower.eval()
    return tower
