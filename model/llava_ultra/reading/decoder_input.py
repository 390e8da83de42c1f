"""What one call of the decoder is given while it learns, and where it predicts answers.

Axes: G readings, M*P image tokens of each, D width, A answer tokens of all rows,
R rows of T tokens that the decoder reads.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from llava_ultra.reading.credit import Picks
from llava_ultra.reading.packing import Packing


@dataclass(frozen=True, kw_only=True, slots=True)
class Prefixes:
    """What the decoder reads first, once for all branches."""

    embeds: Tensor
    """(1, T, D)."""
    images: Tensor
    """(G, M*P, D): the images' tokens of all readings, those among them and others."""
    scale: Tensor
    """(): see `Reading`."""
    picks: Picks | None
    packing: Packing


@dataclass(frozen=True, kw_only=True, slots=True)
class Sequence:
    """What the call of the decoder reads that predicts answers, and where it does."""

    embeds: Tensor
    """(R, T, D)."""
    arguments: dict[str, Any]
    """What else the decoder is told: positions, and a mask where rows are padded."""
    prefixes: Prefixes | None
    """What the row of branches goes on from; None where rows are padded."""
    rows: Tensor
    """(A,) int64: the text row of each answer token; on the CPU, as `places`."""
    places: Tensor
    """(A,) int64: its place among the row's text tokens."""
    sources: Tensor
    """(A,) int64: the place among R*T whose state predicts it."""
