"""Attention of prefixes that are read once, and of the branches that go on from them.

A branch's tokens see its prefix and what stands before them in their own branch, never another
branch. So each token has the state that it has in a row of its own, and backward, the prefix gets
the gradients of all its branches added up.

The decoder is called twice: over a row of all prefixes that are shared, whose keys and values in
every layer are kept (`passage.Passage`), and over a row of all branches. Between the two stands
what takes their gradients apart again where a sampler learns from them
(`llava_ultra.reading.credit`).

Everything but attention works on each token by itself and takes a row of real tokens as it is.
Attention goes block by block: the prefixes are one block, branches of like length another, each
padded for that moment alone; a branch's keys are its prefix's and its own. It enters transformers
as an attention function of its own (`packed_attention`), so any decoder will do that calls
attention by name, and activation checkpointing works, which knows no key-value cache.

The evaluation shares prefixes too, but through that cache (`llava_ultra.decoding`), because it
generates on from what it has read.

Axes: T tokens of a row, G prefixes, N branches, H heads, d channels of a head.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from llava_ultra.reading.packing import Block
from llava_ultra.reading.passage import Asked, Passage
from llava_ultra.reading.spreading import gather, spread

NAME = "sonoray_packed"
"""Under which transformers finds the attention function."""

_ATTENDING = {"full_attention", "sliding_attention"}
"""Kinds of layers in which tokens meet by attention and nothing else."""


class _OfPrefixes(torch.autograd.Function):
    """Keys or values of prefixes (G, ...) for a block of branches (n, ...).

    Backward, it adds up what the branches ask, and keeps what each of them asks, if so told.
    """

    @staticmethod
    def forward(ctx: Any, shared: Tensor, block: Block, asked: Asked | None) -> Tensor:  # noqa: ANN401 - torch's
        assert block.parents is not None
        ctx.block, ctx.asked, ctx.size = block, asked, len(shared)
        return shared.index_select(0, block.parents)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401 - torch's
        if ctx.asked is not None:
            ctx.asked.keep(ctx.block, gradient)
        zeros = gradient.new_zeros(ctx.size, *gradient.shape[1:])
        return zeros.index_add_(0, ctx.block.parents, gradient), None, None


def _segments(block: Block, tokens: Tensor) -> Tensor:
    """A block's part of the row (T, H, d), padded: (count, length, H, d)."""
    own = tokens[block.start : block.stop]
    if block.places is not None:
        own = spread(own, block.places, block.count * block.length)
    return own.view(block.count, block.length, *own.shape[1:])


def attend_packed(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001 - the blocks have masks of their own
    *,
    passage: Passage,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **others: Any,  # noqa: ANN401 - transformers'
) -> tuple[Tensor, None]:
    """Attention over a packed row, in the form in which transformers calls it.

    Args:
        module: the decoder's attention layer.
        query: (1, H, T, d).
        key: (1, H', T, d), H' the key and value heads.
        value: (1, H', T, d).
        attention_mask: none.
        passage: what stands where, and which pass it is.
        dropout: of attention.
        scaling: of scores.
        sliding_window: tokens that a query may look back on, itself included.
        others: as transformers' own function takes them.

    Returns:
        (1, T, H, d), and no weights.
    """
    queries, keys, values = (each[0].transpose(0, 1) for each in (query, key, value))
    packing, attended = passage.packing, []
    blocks = packing.branches if passage.in_branches else (packing.prefixes,)
    for block in blocks:
        assert block is not None
        seen = (_segments(block, keys), _segments(block, values))
        if not passage.in_branches:
            passage.seen.setdefault(module, seen)  # not what is computed anew by checkpoints
        elif block.parents is not None:
            shared, asked = passage.seen[module], passage.asked.get(module, (None, None))
            seen = (
                torch.cat([_OfPrefixes.apply(shared[0], block, asked[0]), seen[0]], dim=1),
                torch.cat([_OfPrefixes.apply(shared[1], block, asked[1]), seen[1]], dim=1),
            )
        mask = block.mask
        if sliding_window is not None:
            ahead = block.positions[:, None, :, None] - block.key_positions[:, None, None]
            mask = (ahead >= 0) if mask is None else mask
            mask = mask & (ahead < sliding_window)
        part, _ = sdpa_attention_forward(
            module,
            _segments(block, queries).transpose(1, 2),
            seen[0].transpose(1, 2),
            seen[1].transpose(1, 2),
            mask,
            dropout=dropout,
            scaling=scaling,
            **others,
        )
        part = part.flatten(0, 1)
        attended.append(part if block.places is None else gather(part, block.places))
    return torch.cat(attended)[None], None


AttentionInterface.register(NAME, attend_packed)


def shares_prefixes(language_model: nn.Module) -> bool:
    """Whether a decoder's tokens meet in attention alone, and that attention can be ours.

    Not so of state-space and convolution layers, of attention that transformers does not call by
    name, and of attention that its fused function cannot do, such as with capped scores.
    """
    model = _transformers_model(language_model)
    kinds = getattr(model.config, "layer_types", None) or ()
    return bool(
        getattr(model, "_supports_attention_backend", False)
        and not getattr(model, "_is_stateful", False)
        and set(kinds) <= _ATTENDING
        and model.config._attn_implementation == "sdpa"
    )


@contextmanager
def packed_attention(language_model: nn.Module) -> Iterator[None]:
    """Let a decoder attend by `attend_packed` inside the block; see `shares_prefixes`."""
    config = _transformers_model(language_model).config
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def _transformers_model(language_model: nn.Module) -> Any:  # noqa: ANN401 - a PreTrainedModel
    """The decoder itself, which adapters may be wrapped around."""
    unwrap = getattr(language_model, "get_base_model", None)
    return language_model if unwrap is None else unwrap()
