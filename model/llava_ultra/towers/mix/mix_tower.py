"""A further tower of a mix: any encoder, its features on the grid that the fusion asks for.

Axes: N images, S side of the input, g side of the encoder's grid, G of the wanted one, C channels.

Eagle (arXiv 2408.15998) resizes every encoder's grid bilinearly to one, and unshuffles SAM's. Here
this is done before features are stored, so that a store is as large as what is read. Where a grid
shrinks the resize averages (antialiasing), so that no cell is skipped.
"""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llava_ultra.towers.mix.mix_config import FurtherTower, VisionConfig
from llava_ultra.towers.pixels import PIXEL_MEAN, PIXEL_STD
from llava_ultra.towers.tower import (
    Standardiser,
    fingerprint_of,
    load_weights,
    read_tower,
    save_tower,
)
from llava_ultra.towers.tower_config import ChannelStatistics, IntensityName


class VisionEncoder(nn.Module):
    """A vision transformer of transformers, read at some of its blocks."""

    def __init__(self, config: VisionConfig, architecture: Mapping[str, Any]) -> None:
        """Build it with random weights.

        Args:
            config: which blocks are read.
            architecture: the model's own configuration, as `config.json` holds it.

        Raises:
            ValueError: transformers knows no such vision model.
        """
        super().__init__()
        from transformers import AutoConfig, AutoModel

        values = dict(architecture)
        kind = values.pop("model_type")
        try:
            built = AutoModel.from_config(AutoConfig.for_model(kind, **values))  # type: ignore[no-untyped-call]
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"transformers has no vision model of type {kind!r} "
                f"({str(error).splitlines()[0][:120]})"
            ) from None
        self.config = config
        self.model: nn.Module = built
        self._asked: dict[str, bool] = {"output_hidden_states": True}
        if "interpolate_pos_encoding" in inspect.signature(built.forward).parameters:
            self._asked["interpolate_pos_encoding"] = config.image_size != values.get("image_size")

    def forward(self, pixels: Tensor) -> Tensor:
        """Patch tokens of the configured blocks: (N, 3, S, S) to (N, g * g, C)."""
        states = self.model(pixel_values=pixels, **self._asked).hidden_states
        tokens = torch.cat([states[layer + 1] for layer in self.config.read_layers], dim=-1)
        return tokens[:, tokens.shape[1] - self.config.grid**2 :]  # without class and registers


class MixTower(nn.Module):
    """An encoder of `open_clip`, SAM's or one of transformers, as one more tower."""

    def __init__(
        self,
        config: FurtherTower,
        *,
        target_grid: int,
        architecture: Mapping[str, Any] | None = None,
    ) -> None:
        """Build it with random weights.

        Args:
            config: the tower.
            target_grid: side of the grid (G) that its features come to.
            architecture: of a model of transformers, its own configuration.
        """
        super().__init__()
        self.config = config
        self.target_grid = target_grid
        self.architecture = dict(architecture or {})
        self.encoder: nn.Module
        if config.open_clip is not None:
            from llava_ultra.towers.clip import ClipTower

            self.encoder = ClipTower(config.open_clip, vocab_size=0, end_id=0, pad_id=0)
        elif config.sam is not None:
            from llava_ultra.towers.sam import SamTower

            self.encoder = SamTower(config.sam, target_grid=config.inner_grid(target_grid))
        else:
            assert config.transformers is not None
            self.encoder = VisionEncoder(config.transformers, self.architecture)
        self.standardise = Standardiser(self.num_channels)

    @property
    def num_tokens(self) -> int:
        """Tokens per image."""
        return self.target_grid**2

    @property
    def num_channels(self) -> int:
        """Channels per token, all layers together."""
        return self.config.num_channels(self.target_grid)

    @property
    def fingerprint(self) -> str:
        """Sha256 (hex) over weights, standardiser, preprocessing, layers and grid; not the name."""
        encoder = self.config.encoder
        values = {
            **encoder.model_dump(mode="json", exclude={"weights"}),
            "target_grid": self.target_grid,
            "architecture": self.architecture,
        }
        if getattr(self.encoder, "in_chunks", False):  # as of SAM itself
            values["attention"] = "chunks-v1"
        return fingerprint_of(f"mix-{type(encoder).__name__}", values, self.state_dict())

    @property
    def image_size(self) -> int:
        """Side of the square input (S), pixels."""
        return self.config.encoder.image_size

    @property
    def intensity(self) -> IntensityName:
        """How the greys are standardised."""
        return self.config.encoder.intensity

    @property
    def pixel_statistics(self) -> tuple[ChannelStatistics, ChannelStatistics]:
        """Mean and standard deviation that the pixels are normalised with."""
        encoder = self.config.encoder
        return encoder.pixel_mean or PIXEL_MEAN, encoder.pixel_std or PIXEL_STD

    def forward(self, pixels: Tensor) -> Tensor:
        """Standardised features: (N, 3, S, S) to (N, G * G, C)."""
        tokens: Tensor = self.encoder(pixels)
        side, wanted = self.config.inner_grid(self.target_grid), self.target_grid
        if side != wanted:
            grid = tokens.transpose(1, 2).reshape(len(tokens), -1, side, side)
            grid = F.interpolate(grid, size=(wanted, wanted), mode="bilinear", antialias=True)
            tokens = grid.flatten(2).transpose(1, 2)
        features: Tensor = self.standardise(tokens)
        return features

    def save(self, folder: Path) -> None:
        """Write weights and configuration into `folder`."""
        values = {
            "config": self.config.model_dump(mode="json"),
            "target_grid": self.target_grid,
            "architecture": self.architecture,
        }
        save_tower(self, folder, values)

    @classmethod
    def load(cls, folder: Path) -> "MixTower":
        """Read a tower and check its weights.

        Raises:
            ValueError: files are missing, or the digest does not match.
        """
        values = read_tower(folder)
        tower = cls(
            FurtherTower.model_validate(values["config"]),
            target_grid=values["target_grid"],
            architecture=values["architecture"],
        )
        return load_weights(tower, folder, values["digest"])
