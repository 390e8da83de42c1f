"""Fusion of the two encoders' tokens into the language model's width.

Axes: ... leading axes (studies, images), P tokens, C1 / C2 channels of CLIP / SAM, D width.

LLaVA-Ultra (arXiv 2410.15074) projects both streams and sums them with a learned weight:
`H1 = P1(F1)`, `H2 = P2(F2)`, `Hv = alpha * H1 + (1 - alpha) * H2`. The projectors' form and the
shape of alpha are not published. Ours are LayerNorm + MLP of two layers (COMM found that a stream
not aligned with text wants a non-linear projector, and that more than two layers hurt) and a
sigmoid-bounded alpha. With linear projectors the sum would be a concatenation and one linear layer,
`[alpha * P1, (1 - alpha) * P2] [F1; F2]`, so a scalar alpha would add nothing (it is tested).

A tower may hand out several layers side by side as channels, C1 = L1 * width. `layer_merge` takes
them apart and sums them (COMM, arXiv 2310.08825); to every other fusion they are more channels.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from llava_ultra.config import (
    BlendFusion,
    ClipOnlyFusion,
    ConcatFusion,
    FusionConfig,
    LayerMergeFusion,
    SamOnlyFusion,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class FusionSizes:
    """The shapes that a fusion is built for."""

    clip_channels: int
    sam_channels: int
    num_tokens: int
    hidden: int
    width: int
    clip_layers: int = 1
    """CLIP layers side by side in `clip_channels` (L1)."""
    sam_layers: int = 1
    """SAM layers side by side in `sam_channels` (L2)."""


def check_features(clip: Tensor, sam: Tensor, sizes: FusionSizes) -> None:
    """Refuse features that a fusion was not built for.

    Args:
        clip: (..., P, C1), the class token first where there is one.
        sam: (..., G, C2), G patches.
        sizes: what the fusion was built for.

    Raises:
        ValueError: tokens or channels differ.
    """
    patches = math.isqrt(sizes.num_tokens) ** 2  # P, or P - 1 with a class token
    wanted = ((sizes.num_tokens, sizes.clip_channels), (patches, sizes.sam_channels))
    found = (tuple(clip.shape[-2:]), tuple(sam.shape[-2:]))
    if found != wanted:
        raise ValueError(
            f"features of CLIP and SAM are {found[0]} and {found[1]} (tokens, channels), this "
            f"model reads {wanted[0]} and {wanted[1]}; embed again with the model's own config"
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
    return torch.cat([sam.mean(dim=-2, keepdim=True), sam], dim=-2)


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

    def forward(self, clip: Tensor, sam: Tensor) -> Tensor:
        """Fuse (..., P, C1) and (..., P, C2) to (..., P, D)."""
        alpha = self.alpha
        blended: Tensor = alpha * self.project_clip(clip) + (1 - alpha) * self.project_sam(sam)
        return blended


class Concat(nn.Module):
    """One projector over the concatenated channels."""

    def __init__(self, sizes: FusionSizes) -> None:
        super().__init__()
        self.project = Projector(
            sizes.clip_channels + sizes.sam_channels, sizes.hidden, sizes.width
        )

    def forward(self, clip: Tensor, sam: Tensor) -> Tensor:
        """Fuse (..., P, C1) and (..., P, C2) to (..., P, D)."""
        fused: Tensor = self.project(torch.cat([clip, sam], dim=-1))
        return fused


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
    """COMM's `Linear([v1, MLP(v2)])`, where `v1` and `v2` are the `LayerSum` of CLIP and of SAM.

    COMM's second tower is DINOv2, ours is SAM: what is not aligned with text gets the MLP.
    """

    def __init__(self, sizes: FusionSizes) -> None:
        super().__init__()
        hidden = sizes.hidden
        self.merge_clip = LayerSum(sizes.clip_channels, sizes.clip_layers, hidden)
        self.merge_sam = LayerSum(sizes.sam_channels, sizes.sam_layers, hidden)
        self.bend_sam = nn.Sequential(
            nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, hidden)
        )
        self.join = nn.Linear(2 * hidden, sizes.width)

    def forward(self, clip: Tensor, sam: Tensor) -> Tensor:
        """Fuse (..., P, L1 * C1) and (..., P, L2 * C2) to (..., P, D)."""
        streams = [self.merge_clip(clip), self.bend_sam(self.merge_sam(sam))]
        fused: Tensor = self.join(torch.cat(streams, dim=-1))
        return fused


class Single(nn.Module):
    """One stream alone, projected as it would be in the blend."""

    def __init__(self, stream: str, sizes: FusionSizes) -> None:
        super().__init__()
        self.use_clip = stream == "clip"
        channels = sizes.clip_channels if self.use_clip else sizes.sam_channels
        self.project = Projector(channels, sizes.hidden, sizes.width)

    def forward(self, clip: Tensor, sam: Tensor) -> Tensor:
        """Project (..., P, C1) or (..., P, C2) to (..., P, D)."""
        fused: Tensor = self.project(clip if self.use_clip else sam)
        return fused


def build_fusion(config: FusionConfig, sizes: FusionSizes) -> nn.Module:
    """Build the fusion that `config` names."""
    match config:
        case BlendFusion():
            return Blend(config, sizes)
        case ConcatFusion():
            return Concat(sizes)
        case LayerMergeFusion():
            return LayerMerge(sizes)
        case ClipOnlyFusion():
            return Single("clip", sizes)
        case SamOnlyFusion():
            return Single("sam", sizes)
