"""The two image encoders, each behind the same small interface.

Axes: N images, P tokens per image, C channels.

`ClipTower` is open_clip's CLIP, read at its penultimate layer without the class token (the layer
that LLaVA reads: the last one is shaped by the contrastive head). `SamTower` is segment_anything's
image encoder; its finer grid comes to CLIP's by pixel-unshuffle, which keeps every value and moves
space into channels (Eagle's choice for SAM). Both stay frozen in the road: what they compute is
cached under their fingerprint.

Either is trained in the road or adopted (`llava_ultra.adoption`). A tower can hand out several
layers, side by side as channels, and CLIP its class token in front of the patches; the config says
which.

Both hand out standardised channels. Most of a tower's output is the same for every image (in the
tiny SAM the images' means differ by 0.06 around 0.88), and in the tiny road's 170 steps a connector
that has to find the difference first learns next to nothing; measured in docs/results.md.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, _build_vision_tower
from open_clip.timm_model import TimmModel
from safetensors.torch import load_file, save_file
from segment_anything.modeling.image_encoder import ImageEncoderViT
from torch import Tensor, nn

from llava_ultra.digest import check_digest, state_digest
from llava_ultra.pixels import PIXEL_MEAN, PIXEL_STD, PREPROCESSING, letterbox, normalise
from llava_ultra.tower_config import ChannelStatistics, ClipConfig, SamConfig

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


class Tower(Protocol):
    """What the embed stage and the server need of an image encoder."""

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
    def pixel_statistics(self) -> tuple[ChannelStatistics, ChannelStatistics]:
        """Mean and standard deviation that the pixels are normalised with."""
        ...

    def __call__(self, pixels: Tensor) -> Tensor:
        """Pixels (N, 3, S, S) to features (N, P, C)."""
        ...


@torch.no_grad()
def encode_canvases(tower: Tower, canvases: np.ndarray, device: torch.device | str) -> Tensor:
    """Encode letterboxed images: uint8 (N, S, S, 3) to features (N, P, C), float32."""
    return tower(normalise(canvases, *tower.pixel_statistics).to(device)).float()


def encode_images(tower: Tower, images: Sequence[np.ndarray], device: torch.device | str) -> Tensor:
    """Encode uint8 images of any sizes to features (N, P, C), float32."""
    canvases = np.stack([letterbox(image, tower.image_size) for image in images])
    return encode_canvases(tower, canvases, device)


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


def fit_standardiser(tower: "ClipTower | SamTower", canvases: np.ndarray) -> None:
    """Fit a tower's standardiser on canvases, uint8 (N, S, S, 3), of which it takes at most 512."""
    chosen = canvases[:: math.ceil(len(canvases) / FIT_IMAGES)]
    starts = range(0, len(chosen), _FIT_BATCH)
    _fit(tower, (normalise(chosen[at : at + _FIT_BATCH]) for at in starts))


def fit_adopted(tower: "ClipTower | SamTower", images: Sequence[np.ndarray]) -> None:
    """Fit an adopted tower's standardiser on uint8 images of any sizes, one by one."""
    canvases = (letterbox(image, tower.image_size)[None] for image in images)
    _fit(tower, (normalise(canvas, *tower.pixel_statistics) for canvas in canvases))


@torch.no_grad()
def _fit(tower: "ClipTower | SamTower", batches: Iterable[Tensor]) -> None:
    tower.standardise = Standardiser(tower.num_channels)
    features = torch.cat([tower(batch) for batch in batches]).flatten(0, 1)
    tower.standardise.mean.copy_(features.mean(dim=0))
    # a channel that never moves is left at its size
    deviation = features.std(dim=0, correction=0)
    tower.standardise.deviation.copy_(torch.where(deviation > _LEAST_DEVIATION, deviation, 1.0))


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
        return _fingerprint("clip", self.config.model_dump(exclude={"weights"}), self.state_dict())

    @property
    def image_size(self) -> int:
        """Side of the square input (S), pixels."""
        return self.config.image_size

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
        _save(self, folder, {"config": self.config.model_dump(), **self.text_ids})

    @classmethod
    def load(cls, folder: Path) -> "ClipTower":
        """Read a tower and check its weights.

        Raises:
            ValueError: files are missing, or the digest does not match.
        """
        values = _read(folder)
        tower = cls(
            ClipConfig.model_validate(values["config"]),
            vocab_size=values["vocab_size"],
            end_id=values["end_id"],
            pad_id=values["pad_id"],
        )
        return _load_weights(tower, folder, values["digest"])


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
        return _fingerprint("sam", values, self.state_dict())

    @property
    def image_size(self) -> int:
        """Side of the square input (S), pixels."""
        return self.config.image_size

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
        _save(self, folder, {"config": self.config.model_dump(), "target_grid": self.target_grid})

    @classmethod
    def load(cls, folder: Path) -> "SamTower":
        """Read a tower and check its weights.

        Raises:
            ValueError: files are missing, or the digest does not match.
        """
        values = _read(folder)
        tower = cls(SamConfig.model_validate(values["config"]), target_grid=values["target_grid"])
        return _load_weights(tower, folder, values["digest"])


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


def _fingerprint(kind: str, config: dict[str, object], state: dict[str, Tensor]) -> str:
    parts = json.dumps([kind, PREPROCESSING, config, state_digest(state)], sort_keys=True)
    return hashlib.sha256(parts.encode()).hexdigest()


def _save(module: nn.Module, folder: Path, values: dict[str, object]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    save_file(state, folder / WEIGHTS)
    text = json.dumps({**values, "digest": state_digest(state)}, indent=1)
    (folder / CONFIG).write_text(text, encoding="utf-8")


def _read(folder: Path) -> dict[str, Any]:
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ValueError(f"tower folder {str(folder)!r} lacks {name}; bootstrap it again")
    values: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    return values


def _load_weights(tower: TowerModule, folder: Path, digest: str) -> TowerModule:
    state = load_file(folder / WEIGHTS)
    check_digest(str(folder / WEIGHTS), found=state_digest(state), expected=digest)
    tower.load_state_dict(state)
    tower.eval()
    return tower
