"""What recognition adds to a model: modality tokens, heads on the decoder's states, a temperature.

The modality tokens are learned vectors of the decoder's width, behind everything else a row holds,
so that causal attention lets them see all of it. The authors' first code drew them from noise at
every pass; ours are parameters, saved, exported and restored like all others.

Axes: B rows, T tokens, D width.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llava_ultra.recognition.losses import Side
from llava_ultra.recognition.names import HeadKind

_LEAST_TEMPERATURE = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadShape:
    """What a head is made of."""

    image_tokens: int
    text_tokens: int
    kind: HeadKind
    temperature: float
    learns_temperature: bool
    knows_classes: bool
    """Whether class descriptions have a head of their own (DKAM over token embeddings)."""
    weighs_texts: bool
    """Whether a learned query weighs a class's descriptions."""


class RecognitionHead(nn.Module):
    """Tokens and heads of both sides; see the module's docstring."""

    log_temperature: Tensor

    def __init__(self, shape: HeadShape, *, width: int, scale: Tensor) -> None:
        """Draw the weights.

        Args:
            shape: what there is.
            width: of the decoder (D).
            scale: (), root mean square of the decoder's token embeddings.
        """
        super().__init__()
        self.tokens = nn.ParameterDict(
            {
                "image": nn.Parameter(torch.randn(shape.image_tokens, width) * scale),
                "text": nn.Parameter(torch.randn(shape.text_tokens, width) * scale),
            }
        )
        self.heads = nn.ModuleDict({side: _head(shape.kind, width) for side in ("image", "text")})
        if shape.knows_classes:
            self.heads["class"] = _head(shape.kind, width)
        start = torch.full((1,), math.log(shape.temperature))
        if shape.learns_temperature:
            self.log_temperature = nn.Parameter(start)
        else:
            self.register_buffer("log_temperature", start, persistent=False)
        self.query = nn.Parameter(torch.zeros(width)) if shape.weighs_texts else None

    def with_tokens(self, embeds: Tensor, lengths: Tensor, side: str) -> Tensor:
        """Put a side's tokens behind each row.

        Args:
            embeds: (B, T, D), padded on the right.
            lengths: (B,) int64, real tokens of each row; on any device.
            side: `image` or `text`.

        Returns:
            (B, T + n, D).
        """
        tokens = self.tokens[side].to(embeds.dtype)
        longer = F.pad(embeds, (0, 0, 0, len(tokens)))
        places = lengths.to(embeds.device)[:, None] + torch.arange(
            len(tokens), device=embeds.device
        )
        index = places[..., None].expand(-1, -1, embeds.shape[-1])
        return longer.scatter(1, index, tokens.expand(len(embeds), -1, -1))

    def pool(self, states: Tensor, lengths: Tensor, side: str) -> Side:
        """Global and local vectors, of length 1, of decoder states (B, T + n, D)."""
        lengths = lengths.to(states.device)[:, None]
        places = torch.arange(states.shape[1], device=states.device)
        is_local = places < lengths
        is_global = ~is_local & (places < lengths + len(self.tokens[side]))
        features = self.heads[side](states.float())
        return Side(globals_=_mean(features, is_global), locals_=_mean(features, is_local))

    def pool_embeddings(self, embeds: Tensor, mask: Tensor) -> Tensor:
        """Vectors (R, D) of length 1 of embedded descriptions (R, L, D), as DKAM reads them."""
        features: Tensor = self.heads["class"](embeds.float())
        return _mean(features, mask.to(embeds.device))

    def text_weights(self, vectors: Tensor) -> Tensor | None:
        """Logits (R,) of what each description (R, D) counts; None where all count alike."""
        if self.query is None:
            return None
        return vectors @ self.query * math.sqrt(len(self.query))

    @property
    def temperature(self) -> Tensor:
        """(): divides similarities."""
        return self.log_temperature[0].exp().clamp(min=_LEAST_TEMPERATURE)


def _head(kind: HeadKind, width: int) -> nn.Module:
    if kind == "identity":
        return nn.Identity()
    if kind == "linear":
        return nn.Linear(width, width)
    return nn.Sequential(
        nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
    )


def _mean(features: Tensor, mask: Tensor) -> Tensor:
    """Mean over the places of a mask (B, T), of length 1."""
    chosen = mask[..., None].to(features.dtype)
    return F.normalize((features * chosen).sum(dim=1) / chosen.sum(dim=1).clamp(min=1), dim=1)
