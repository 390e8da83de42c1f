"""What goes from the pass over prefixes to the pass over branches, and backward.

The keys and values of the prefixes are kept for the branches, in every layer. Where picks learn,
what each branch asks of them is kept as well, for `reading.credit`.

Axes: G prefixes, H' key and value heads, d channels of a head.
"""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from llava_ultra.reading.packing import Block, Packing


class Asked:
    """What some branches asked of the keys, or of the values, of their prefixes in one layer."""

    def __init__(self, branches: Tensor) -> None:
        self.branches = branches
        """(n,) int64: which of them are kept; on the CPU."""
        self.pieces: list[tuple[Tensor, Tensor, Tensor]] = []
        """Of those in a block: their numbers (m,), their prefixes (m,), and their gradients
        (m, length of a prefix, H', d); numbers on the CPU."""

    def keep(self, block: Block, gradient: Tensor) -> None:
        """Keep what a block's branches ask: (count, length of a prefix, H', d)."""
        assert block.parents is not None
        places = torch.isin(block.numbers, self.branches).nonzero()[:, 0]
        there = places.to(gradient.device)
        self.pieces.append(
            (
                block.numbers[places],
                block.parents.index_select(0, there),
                gradient.index_select(0, there),
            )
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Passage:
    """One of the two passes, and what goes from that over prefixes to that over branches."""

    packing: Packing
    seen: dict[nn.Module, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """By attention layer: keys and values of the prefixes, (G, length, H', d) each, padded."""
    asked: dict[nn.Module, tuple[Asked, Asked]] = field(default_factory=dict)
    """By attention layer: where its keys' and values' gradients of each branch are kept, if so."""
    in_branches: bool = False
    """Which pass it is."""

    def on_branches(self) -> "Passage":
        """The second pass."""
        return replace(self, in_branches=True)
