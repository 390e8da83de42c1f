"""Fusion of the encoders' tokens into the language model's width.

Axes: ... leading axes (studies, images), P tokens, C1 / C2 channels of CLIP / SAM, D width; a
further tower has T tokens (P of its grid, unless they are appended) and C channels.

LLaVA-Ultra (arXiv 2410.15074) projects both streams and sums them with a learned weight:
`H1 = P1(F1)`, `H2 = P2(F2)`, `Hv = alpha * H1 + (1 - alpha) * H2`. The projectors' form and the
shape of alpha are not published. Ours are LayerNorm + MLP of two layers (COMM found that a stream
not aligned with text wants a non-linear projector, and that more than two layers hurt) and a
sigmoid-bounded alpha. With linear projectors the sum would be a concatenation and one linear layer,
`[alpha * P1, (1 - alpha) * P2] [F1; F2]`, so a scalar alpha would add nothing (it is tested).

A tower may hand out several layers side by side as channels, C1 = L1 * width. `layer_merge` takes
them apart and sums them (COMM, arXiv 2310.08825); to every other fusion they are more channels.

`concat`, `append` and `layer_merge` read any number of towers, those that their `towers` names. A
module's weights are called after the tower that they read.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from llava_ultra.config import (
    AppendFusion,
    BlendFusion,
    ClipOnlyFusion,
    ConcatFusion,
    FusionConfig,
    LayerMergeFusion,
    MixFusion,
    ModelConfig,
    SamOnlyFusion,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamSizes:
    """The shapes of one tower's features."""

    num_tokens: int
    """As stored (T)."""
    num_channels: int
    num_layers: int = 1
    """Layers side by side in the channels."""
    is_aligned: bool = False
    """Whether the tower was trained beside texts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FusionSizes:
    """The shapes that a fusion is built for."""

    clip_channels: int
    sam_channels: int
    num_tokens: int
    """Of CLIP (P)."""
    hidden: int
    width: int
    clip_layers: int = 1
    """CLIP layers side by side in `clip_channels` (L1)."""
    sam_layers: int = 1
    """SAM layers side by side in `sam_channels` (L2)."""
    more: Mapping[str, StreamSizes] = field(default_factory=dict)
    """Of the further towers, by name."""

    @property
    def patches(self) -> int:
        """CLIP's tokens without a class token: P, or P - 1."""
        return math.isqrt(self.num_tokens) ** 2

    @property
    def streams(self) -> dict[str, StreamSizes]:
        """Of all towers, by name."""
        clip = StreamSizes(
            num_tokens=self.num_tokens,
            num_channels=self.clip_channels,
            num_layers=self.clip_layers,
            is_aligned=True,
        )
        sam = StreamSizes(
            num_tokens=self.patches, num_channels=self.sam_channels, num_layers=self.sam_layers
        )
        return {"clip": clip, "sam": sam, **self.more}


def fusion_sizes(config: ModelConfig, width: int) -> FusionSizes:
    """The shapes that a model's fusion is built for, where its decoder is `width` wide."""
    shapes = config.tower_shapes
    return FusionSizes(
        clip_channels=config.clip.num_channels,
        sam_channels=config.sam_channels,
        num_tokens=config.clip.num_tokens,
        hidden=config.projector_hidden,
        width=width,
        clip_layers=len(config.clip.read_layers),
        sam_layers=max(1, len(config.sam.read_layers)),
        more={
            tower.name: StreamSizes(
                num_tokens=shapes[tower.name][0],
                num_channels=shapes[tower.name][1],
                num_layers=tower.num_layers,
                is_aligned=tower.is_aligned,
            )
            for tower in config.towers
        },
    )


NO_MORE: Mapping[str, Tensor] = {}
"""Features of further towers, where there are none."""


def fuse_towers(
    fusion: nn.Module,
    sizes: FusionSizes,
    clip: Tensor,
    sam: Tensor,
    more: Mapping[str, Tensor] = NO_MORE,
) -> Tensor:
    """Fuse the features of all towers as they are stored.

    Args:
        fusion: built for `sizes`.
        sizes: the shapes.
        clip: (..., P, C1), the class token first where there is one.
        sam: (..., G, C2), G patches.
        more: by further tower, (..., T, C).

    Returns:
        (..., P, D), of `append` with the tokens of all towers that it reads.

    Raises:
        ValueError: tokens or channels differ, or a tower's features are missing.
    """
    check_features(clip, sam, sizes, more)
    if sizes.patches != sizes.num_tokens:
        more = {name: with_own_mean(each) for name, each in more.items()}
    fused: Tensor = fusion(clip, with_mean_token(clip, sam), more)
    return fused


def check_features(
    clip: Tensor, sam: Tensor, sizes: FusionSizes, more: Mapping[str, Tensor] = NO_MORE
) -> None:
    """Refuse features that a fusion was not built for; arguments as of `fuse_towers`.

    Raises:
        ValueError: tokens or channels differ, or a tower's features are missing.
    """
    wanted = ((sizes.num_tokens, sizes.clip_channels), (sizes.patches, sizes.sam_channels))
    found = (tuple(clip.shape[-2:]), tuple(sam.shape[-2:]))
    if found != wanted:
        raise ValueError(
            f"features of CLIP and SAM are {found[0]} and {found[1]} (tokens, channels), this "
            f"model reads {wanted[0]} and {wanted[1]}; embed again with the model's own config"
        )
    for name, own in sizes.more.items():
        shape = tuple(more[name].shape[-2:]) if name in more else None
        if shape != (own.num_tokens, own.num_channels):
            raise ValueError(
                f"features of tower {name!r} are {shape} (tokens, channels), this model reads "
                f"{(own.num_tokens, own.num_channels)}; embed again with the model's own config"
            )


def with_mean_token(clip: Tensor, sam: Tensor) -> Tensor:
    """Put the mean of SAM's tokens in front of them where CLIP has its class token there.

    Args:
        clip: (..., P, C1).
        sam: (..., P, C2), or (..., P - 1, C2) where CLIP has a class token.

    Returns:
        (..., P, C2).
    """
    if clip.shape[-2] == sam.shape[-2]:
        return sam
    return with_own_mean(sam)


def with_own_mean(tokens: Tensor) -> Tensor:
    """Put the mean of tokens in front of them: (..., T, C) to (..., T + 1, C)."""
    return torch.cat([tokens.mean(dim=-2, keepdim=True), tokens], dim=-2)


class Projector(nn.Sequential):
    """LayerNorm, Linear, GELU, Linear: (..., C) to (..., D)."""

    def __init__(self, num_channels: int, hidden: int, width: int) -> None:
        super().__init__(
            nn.LayerNorm(num_channels),
            nn.Linear(num_channels, hidden),
            nn.GELU(),
            nn.Linear(hidden, width),
        )


class Blend(nn.Module):
    """`alpha * P1(F1) + (1 - alpha) * P2(F2)`."""

    def __init__(self, config: BlendFusion, sizes: FusionSizes) -> None:
        super().__init__()
        self.project_clip = Projector(sizes.clip_channels, sizes.hidden, sizes.width)
        self.project_sam = Projector(sizes.sam_channels, sizes.hidden, sizes.width)
        size = {"scalar": 1, "channel": sizes.width, "token": sizes.num_tokens}
        start = math.log(config.alpha_init / (1 - config.alpha_init))
        # a vector whatever it belongs to, so that it does not decay (`parameters.groups`)
        self.alpha_logit = nn.Parameter(torch.full((size[config.alpha],), start))
        self.of_tokens = config.alpha == "token"

    @property
    def alpha(self) -> Tensor:
        """CLIP's share: (1,), (D,) or (P, 1), each in (0, 1)."""
        alpha = torch.sigmoid(self.alpha_logit)
        return alpha[:, None] if self.of_tokens else alpha

    def forward(self, clip: Tensor, sam: Tensor, more: Mapping[str, Tensor] = NO_MORE) -> Tensor:
        """Fuse (..., P, C1) and (..., P, C2) to (..., P, D); `more` is not read."""
        alpha = self.alpha
        blended: Tensor = alpha * self.project_clip(clip) + (1 - alpha) * self.project_sam(sam)
        return blended


class Concat(nn.Module):
    """One projector over the concatenated channels of the towers that it reads."""

    def __init__(self, towers: Sequence[str], sizes: FusionSizes) -> None:
        super().__init__()
        self.towers = tuple(towers)
        channels = sum(sizes.streams[name].num_channels for name in towers)
        self.project = Projector(channels, sizes.hidden, sizes.width)

    def forward(self, clip: Tensor, sam: Tensor, more: Mapping[str, Tensor] = NO_MORE) -> Tensor:
        """Fuse (..., P, C) of each tower to (..., P, D)."""
        streams = {"clip": clip, "sam": sam, **more}
        fused: Tensor = self.project(torch.cat([streams[name] for name in self.towers], dim=-1))
        return fused


class Append(nn.Module):
    """A projector for each tower that it reads, their tokens one behind the other."""

    def __init__(self, towers: Sequence[str], sizes: FusionSizes) -> None:
        super().__init__()
        self.towers = tuple(towers)
        for name in towers:
            projector = Projector(sizes.streams[name].num_channels, sizes.hidden, sizes.width)
            self.add_module(f"project_{name}", projector)

    def forward(self, clip: Tensor, sam: Tensor, more: Mapping[str, Tensor] = NO_MORE) -> Tensor:
        """Fuse (..., T, C) of each tower to (..., sum of T, D)."""
        streams = {"clip": clip, "sam": sam, **more}
        projected = [getattr(self, f"project_{name}")(streams[name]) for name in self.towers]
        return torch.cat(projected, dim=-2)


class LayerSum(nn.Module):
    """`sum_i w_i Linear_i(LayerNorm_i(F_i))` over one tower's layers, the weights summing to 1.

    COMM's LLN-Layerscale. The weights are the softmax of free parameters and start equal.
    """

    def __init__(self, num_channels: int, num_layers: int, width: int) -> None:
        super().__init__()
        if num_channels % num_layers:
            raise ValueError(
                f"{num_channels} channels are no {num_layers} layers side by side; give the fusion "
                "the layers that the tower reads"
            )
        size = num_channels // num_layers
        self.project = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(size), nn.Linear(size, width)) for _ in range(num_layers)
        )
        self.weight_logits = nn.Parameter(torch.zeros(num_layers))

    @property
    def weights(self) -> Tensor:
        """Each layer's share: (L,), summing to 1."""
        return self.weight_logits.softmax(dim=0)

    def forward(self, features: Tensor) -> Tensor:
        """Merge (..., L * C) to (..., width)."""
        layers = features.chunk(len(self.project), dim=-1)
        projected = [project(f) for project, f in zip(self.project, layers, strict=True)]
        return torch.einsum("l...d,l->...d", torch.stack(projected), self.weights)


class LayerMerge(nn.Module):
    """COMM's `Linear([v1, MLP(v2), ...])`, where each `v` is the `LayerSum` of a tower.

    COMM's second tower is DINOv2, ours is SAM: what was not trained beside texts gets the MLP.
    """

    def __init__(self, towers: Sequence[str], sizes: FusionSizes) -> None:
        super().__init__()
        self.towers = tuple(towers)
        hidden, streams = sizes.hidden, sizes.streams
        for name in towers:
            own = streams[name]
            self.add_module(f"merge_{name}", LayerSum(own.num_channels, own.num_layers, hidden))
        self.bent = tuple(name for name in towers if not streams[name].is_aligned)
        for name in self.bent:
            bend = nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, hidden))
            self.add_module(f"bend_{name}", bend)
        self.join = nn.Linear(len(towers) * hidden, sizes.width)

    def forward(self, clip: Tensor, sam: Tensor, more: Mapping[str, Tensor] = NO_MORE) -> Tensor:
        """Fuse (..., P, layers * C) of each tower to (..., P, D)."""
        streams = {"clip": clip, "sam": sam, **more}
        merged = {name: getattr(self, f"merge_{name}")(streams[name]) for name in self.towers}
        for name in self.bent:
            merged[name] = getattr(self, f"bend_{name}")(merged[name])
        fused: Tensor = self.join(torch.cat([merged[name] for name in self.towers], dim=-1))
        return fused


class Single(nn.Module):
    """One stream alone, projected as it would be in the blend."""

    def __init__(self, stream: str, sizes: FusionSizes) -> None:
        super().__init__()
        self.use_clip = stream == "clip"
        channels = sizes.clip_channels if self.use_clip else sizes.sam_channels
        self.project = Projector(channels, sizes.hidden, sizes.width)

    def forward(self, clip: Tensor, sam: Tensor, more: Mapping[str, Tensor] = NO_MORE) -> Tensor:
        """Project (..., P, C1) or (..., P, C2) to (..., P, D); `more` is not read."""
        fused: Tensor = self.project(clip if self.use_clip else sam)
        return fused


def build_fusion(config: FusionConfig, sizes: FusionSizes) -> nn.Module:
    """Build the fusion that `config` names."""
    towers = tuple(sizes.streams)
    if isinstance(config, MixFusion) and config.towers:
        towers = config.towers
    match config:
        case BlendFusion():
            return Blend(config, sizes)
        case ConcatFusion():
            return Concat(towers, sizes)
        case AppendFusion():
            return Append(towers, sizes)
        case LayerMergeFusion():
            return LayerMerge(towers, sizes)
        case ClipOnlyFusion():
            return Single("clip", sizes)
        case SamOnlyFusion():
            return Single("sam", sizes)
