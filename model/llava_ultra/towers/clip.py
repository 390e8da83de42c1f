"""CLIP as a tower: open_clip's model, of which the road reads the image side.

It is read at its penultimate layer without the class token: the layer that LLaVA reads, because the
last one is shaped by the contrastive head. The config can name another layer, several, side by side
as channels, or the class token, in front of the patches.

SAM stands in a module of its own (`llava_ultra.towers.sam`): open_clip brings timm and transformers
along, and a process with SAM alone is spared that second of CPU time (1.25 s in place of 2.3 s
after torch; segment_anything takes the rest, for torchvision).
"""

from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, _build_vision_tower
from open_clip.timm_model import TimmModel
from torch import Tensor, nn

from llava_ultra.towers.pixels import PIXEL_MEAN, PIXEL_STD
from llava_ultra.towers.tower import (
    Standardiser,
    fingerprint_of,
    load_weights,
    read_tower,
    save_tower,
)
from llava_ultra.towers.tower_config import ChannelStatistics, ClipConfig, IntensityName


class ClipTower(nn.Module):
    """CLIP; the road reads the image side's penultimate layer, or those that the config names.

    One that is trained here has both of its sides, an adopted one its image side only.
    """

    def __init__(self, config: ClipConfig, *, vocab_size: int, end_id: int, pad_id: int) -> None:
        super().__init__()
        self.config = config
        self.text_ids = {"vocab_size": vocab_size, "end_id": end_id, "pad_id": pad_id}
        self.clip: CLIP = self._build_image_side() if config.source else self._build_small()
        self.standardise = Standardiser(self.num_channels)

    def _build_image_side(self) -> Any:  # noqa: ANN401 - the part of a CLIP that is read
        return nn.ModuleDict({"visual": _build_published(self.config)})

    def _build_small(self) -> CLIP:
        config = self.config
        return CLIP(
            embed_dim=config.embed_dim,
            vision_cfg=CLIPVisionCfg(
                layers=config.layers,
                width=config.width,
                head_width=config.head_width,
                patch_size=config.patch_size,
                image_size=config.image_size,
                pool_type=config.pool,
            ),
            text_cfg=CLIPTextCfg(
                context_length=config.context_length,
                vocab_size=self.text_ids["vocab_size"],
                width=config.text_width,
                heads=config.text_width // config.head_width,
                layers=config.text_layers,
                pad_id=self.text_ids["pad_id"],
                eos_id=self.text_ids["end_id"],
                pool_type="eos",
            ),
        )

    @property
    def num_tokens(self) -> int:
        """Tokens per image (P)."""
        return self.config.num_tokens

    @property
    def num_channels(self) -> int:
        """Channels per token (C1), all layers together."""
        return self.config.num_channels

    @property
    def fingerprint(self) -> str:
        """Sha256 (hex) over weights, standardiser, preprocessing, layer and grid."""
        return fingerprint_of(
            "clip", self.config.model_dump(exclude={"weights"}), self.state_dict()
        )

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
        """Standardised features of the configured layers: (N, 3, S, S) to (N, P, C1)."""
        prepend = self.config.class_token
        visual: Any = self.clip.visual
        output = visual.forward_intermediates(
            pixels,
            indices=list(self.config.read_layers),
            stop_early=True,
            intermediates_only=True,
            output_fmt="NLC",
            output_extra_tokens=prepend,
        )
        tokens = torch.cat(output["image_intermediates"], dim=-1)
        if prepend:
            class_token = torch.cat(output["image_intermediates_prefix"], dim=-1)
            tokens = torch.cat([class_token, tokens], dim=1)
        features: Tensor = self.standardise(tokens)
        return features

    def read_as(self, config: ClipConfig) -> "ClipTower":
        """The same CLIP, read as `config` says; its standardiser is fresh."""
        tower = ClipTower(config, **self.text_ids)
        tower.clip.load_state_dict(self.clip.state_dict())
        return tower.eval()

    def save(self, folder: Path) -> None:
        """Write weights and configuration into `folder`."""
        save_tower(self, folder, {"config": self.config.model_dump(), **self.text_ids})

    @classmethod
    def load(cls, folder: Path) -> "ClipTower":
        """Read a tower and check its weights.

        Raises:
            ValueError: files are missing, or the digest does not match.
        """
        values = read_tower(folder)
        tower = cls(
            ClipConfig.model_validate(values["config"]),
            vocab_size=values["vocab_size"],
            end_id=values["end_id"],
            pad_id=values["pad_id"],
        )
        return load_weights(tower, folder, values["digest"])


def _build_published(config: ClipConfig) -> nn.Module:
    """The image side of `config.source` with random weights; its text side may need a network."""
    values = open_clip.get_model_config(config.source)
    visual: nn.Module = _build_vision_tower(
        values["embed_dim"],
        {**values["vision_cfg"], "image_size": config.image_size},
        quick_gelu=values.get("quick_gelu", False),
    )
    if isinstance(visual, TimmModel):
        visual.set_input_size(config.image_size)
    return visual
