"""Fusion of the two encoders' tokens into the language model's width.

Axes: ... leading axes (studies, images), P tokens, C1 / C2 channels of CLIP / SAM, D width.

LLaVA-Ultra (arXiv 2410.15074) projects both streams and sums them with a learned weight:
`H1 = P1(F1)`, `H2 = P2(F2)`, `Hv = alpha * H1 + (1 - alpha) * H2`. The projectors' form and the
shape of alpha are not published. Ours are LayerNorm + MLP of two layers (COMM found that a stream
not aligned with text wants a non-linear projector, and that more than two layers hurt) and a
sigmoid-bounded alpha.
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
        shape = {"scalar": (1,), "channel": (sizes.width,), "token": (sizes.num_tokens, 1)}
        start = math.log(config.alpha_init / (1 - config.alpha_init))
        self.alpha_logit = nn.Parameter(torch.full(shape[config.alpha], start))

    @property
    def alpha(self) -> Tensor:
        """CLIP's share: (1,), (D,) or (P, 1), each in (0, 1)."""
        return torch.sigmoid(self.alpha_logit)

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
        case ClipOnlyFusion():
            return Single("clip", sizes)
        case SamOnlyFusion():
            return Single("sam", sizes)
