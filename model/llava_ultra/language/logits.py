"""Logits where they are read, and nowhere else.

A decoder's logits are the widest tensor of a training step, V numbers at every position, and of all
positions only those in front of an answer's tokens are ever looked at. transformers'
`logits_to_keep` leaves the same columns to all rows; here each row has places of its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def logits_at(language_model: nn.Module, rows: Tensor, columns: Tensor) -> Iterator[None]:
    """Let the decoder compute logits (T, V) of T places, in place of (N, S, V), inside the block.

    What an architecture does to its logits afterwards, scaling or capping, is still done.

    Args:
        language_model: a causal decoder of transformers, with adapters or without.
        rows: (T,) int64.
        columns: (T,) int64, positions in the sequence.
    """
    head: nn.Module = language_model.get_output_embeddings()  # type: ignore[operator]
    handle = head.register_forward_pre_hook(lambda _, inputs: (inputs[0][rows, columns],))
    try:
        yield
    finally:
        handle.remove()
