"""Rows to places among zeros, and back: padding for the moment of an attention.

Each place is taken once, so that both ways, and their gradients, are copies; those of torch's own
indexing add up.
"""

from typing import Any

import torch
from torch import Tensor


class _Spread(torch.autograd.Function):
    """Rows (R, ...) to places among zeros (S, ...); each place is taken once."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, places: Tensor, size: int) -> Tensor:  # noqa: ANN401 - torch's
        ctx.save_for_backward(places)
        return rows.new_zeros(size, *rows.shape[1:]).index_copy_(0, places, rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401 - torch's
        (places,) = ctx.saved_tensors
        return gradient.index_select(0, places), None, None


class _Gather(torch.autograd.Function):
    """The way back from `_Spread`: rows at places that are taken once."""

    @staticmethod
    def forward(ctx: Any, padded: Tensor, places: Tensor) -> Tensor:  # noqa: ANN401 - torch's
        ctx.save_for_backward(places)
        ctx.size = len(padded)
        return padded.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401 - torch's
        (places,) = ctx.saved_tensors
        zeros = gradient.new_zeros(ctx.size, *gradient.shape[1:])
        return zeros.index_copy_(0, places, gradient), None


def spread(rows: Tensor, places: Tensor, size: int) -> Tensor:
    """Rows (R, ...) at `places` (R,), each another one, among zeros (size, ...)."""
    padded: Tensor = _Spread.apply(rows, places, size)
    return padded


def gather(padded: Tensor, places: Tensor) -> Tensor:
    """Rows of (size, ...) at `places` (R,), each another one: (R, ...)."""
    rows: Tensor = _Gather.apply(padded, places)
    return rows
