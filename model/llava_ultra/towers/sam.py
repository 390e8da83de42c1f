"""SAM as a tower: segment_anything's image encoder.

Its finer grid comes to CLIP's by pixel-unshuffle, which keeps every value and moves space into
channels (Eagle's choice for SAM). The config can name blocks to read in place of the neck, side by
side as channels. On a large grid the global blocks attend without their matrix of scores
(`llava_ultra.towers.sam_attention`).
"""

from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from segment_anything.modeling.image_encoder import ImageEncoderViT
from torch import Tensor, nn

from llava_ultra.towers.pixels import PIXEL_MEAN, PIXEL_STD
from llava_ultra.towers.sam_attention import spare_scores
from llava_ultra.towers.tower import (
    Standardiser,
    fingerprint_of,
    load_weights,
    read_tower,
    save_tower,
)
from llava_ultra.towers.tower_config import ChannelStatistics, IntensityName, SamConfig


class SamTower(nn.Module):
    """SAM's image encoder, its grid brought to `target_grid` by pixel-unshuffle."""

    def __init__(self, config: SamConfig, *, target_grid: int) -> None:
        super().__init__()
        self.config = config
        self.target_grid = target_grid
        self.encoder = ImageEncoderViT(
            img_size=config.image_size,
            patch_size=config.patch_size,
            embed_dim=config.width,
            depth=config.layers,
            num_heads=config.heads,
            out_chans=config.out_channels,
            norm_layer=partial(nn.LayerNorm, eps=config.norm_eps),
            use_rel_pos=True,
            window_size=config.window_size,
            global_attn_indexes=config.global_layers,
        )
        self.in_chunks = spare_scores(self.encoder, config.grid)
        self.standardise = Standardiser(self.num_channels)

    @property
    def num_tokens(self) -> int:
        """Tokens per image (P)."""
        return self.target_grid**2

    @property
    def num_channels(self) -> int:
        """Channels per token (C2) after pixel-unshuffle, all layers together."""
        return self.config.num_channels * (self.config.grid // self.target_grid) ** 2

    @property
    def fingerprint(self) -> str:
        """Sha256 (hex) over weights, standardiser, preprocessing and grid."""
        values = {**self.config.model_dump(exclude={"weights"}), "target_grid": self.target_grid}
        if self.in_chunks:  # other features than the library's own by 1e-6
            values["attention"] = "chunks-v1"
        return fingerprint_of("sam", values, self.state_dict())

    @property
    def image_size(self) -> int:
        """Side of the square input (S), pixels."""
        return self.config.image_size

    @property
    def intensity(self) -> IntensityName:
        """How the greys are standardised."""
        return self.config.intensity

    @property
    def pixel_statistics(self) -> tuple[ChannelStatistics, ChannelStatistics]:
        """Mean and standard deviation that the pixels are normalised with."""
        return self.config.pixel_mean or PIXEL_MEAN, self.config.pixel_std or PIXEL_STD

    def forward(self, pixels: Tensor) -> Tensor:
        """Standardised features: (N, 3, S, S) to (N, P, C2)."""
        factor = self.config.grid // self.target_grid
        shuffled = [F.pixel_unshuffle(grid, factor) for grid in self._read(pixels)]
        tokens = torch.cat(shuffled, dim=1).flatten(2).transpose(1, 2)
        features: Tensor = self.standardise(tokens)
        return features

    def _read(self, pixels: Tensor) -> list[Tensor]:
        """The grids (N, C, h, w) that the config names: the neck's, or one of each block."""
        layers = self.config.read_layers
        if not layers:
            return [self.encoder(pixels)]
        states = self.encoder.patch_embed(pixels) + self.encoder.pos_embed  # (N, h, w, C)
        grids = []
        for number, block in enumerate(self.encoder.blocks[: layers[-1] + 1]):
            states = block(states)
            if number in layers:
                grids.append(states.permute(0, 3, 1, 2))
        return grids

    def read_as(self, config: SamConfig, *, target_grid: int) -> "SamTower":
        """The same encoder, read as `config` says on that grid; its standardiser is fresh."""
        tower = SamTower(config, target_grid=target_grid)
        tower.encoder.load_state_dict(self.encoder.state_dict())
        return tower.eval()

    def save(self, folder: Path) -> None:
        """Write weights and configuration into `folder`."""
        save_tower(
            self, folder, {"config": self.config.model_dump(), "target_grid": self.target_grid}
        )

    @classmethod
    def load(cls, folder: Path) -> "SamTower":
        """Read a tower and check its weights.

        Raises:
            ValueError: files are missing, or the digest does not match.
        """
        values = read_tower(folder)
        tower = cls(SamConfig.model_validate(values["config"]), target_grid=values["target_grid"])
        return load_weights(tower, folder, values["digest"])
