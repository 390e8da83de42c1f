"""Where prefixes and their branches stand, each in a single row without padding.

All questions of a study begin alike: what the chat form puts in front of the images, and the
images. The decoder reads that prefix once. Each question with its answer is a branch: its positions
go on from the prefix's end. How its tokens see that prefix is the matter of `reading.attention`.
A question that shares its images with none stands among the branches as a whole.

Axes: T tokens of a row, G prefixes, N branches.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BRANCH_BLOCKS = 2
"""Most blocks of branches by length: each is padded to its longest branch in attention."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """Segments of consecutive tokens in the row, which attention takes together."""

    start: int
    """First token in the row."""
    stop: int
    count: int
    """Segments."""
    length: int
    """Tokens of the longest one."""
    places: Tensor | None
    """(stop - start,) int64: each token's place among `count * length`; None without padding."""
    parents: Tensor | None
    """(count,) int64: the prefix that each segment goes on from; None for what begins by itself."""
    numbers: Tensor
    """(count,) int64: which of all prefixes or branches the segments are; on the CPU."""
    positions: Tensor
    """(count, length) int64, of the segments' tokens; padding counts on."""
    key_positions: Tensor
    """(count, prefix length + length) int64, of what they may see; -1 at padding of prefixes."""
    mask: Tensor | None
    """(count or 1, 1, length, prefix length + length) bool; None where causal says it all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Packing:
    """Where prefixes and branches stand, each in a row of their own; prefixes in their order."""

    prefixes: Block | None
    """None where no branch goes on from any."""
    branches: tuple[Block, ...]
    branch_starts: Tensor
    """(N,) int64: first token of each branch in their row; on the CPU."""

    @property
    def prefix_positions(self) -> Tensor:
        """Position ids (1, T) int64 of the prefixes' row, where there are any."""
        assert self.prefixes is not None
        return _of_tokens(self.prefixes)[None]

    @property
    def branch_positions(self) -> Tensor:
        """Position ids (1, T) int64 of the branches' row."""
        return torch.cat([_of_tokens(block) for block in self.branches])[None]


def pack(
    prefix_lengths: Sequence[int],
    branch_lengths: Sequence[int],
    parents: Sequence[int],
    *,
    device: torch.device | str = "cpu",
) -> Packing:
    """Lay out prefixes and branches.

    Args:
        prefix_lengths: tokens of each of G prefixes, at least one.
        branch_lengths: tokens of each of N branches, at least one.
        parents: the prefix of each branch; -1 where it begins by itself.
        device: where the decoder reads.
    """
    lengths, of_prefix = torch.tensor(branch_lengths), torch.tensor(parents)
    prefixes = torch.tensor(prefix_lengths, dtype=torch.int64)
    branches: list[Block] = []
    branch_starts = torch.zeros_like(lengths)
    order = lengths.argsort(stable=True)
    alone = of_prefix[order] < 0
    groups = [(part, begins) for part, begins in ((order[~alone], False), (order[alone], True))]
    for part, begins in groups:
        for rows in part.chunk(BRANCH_BLOCKS) if len(part) else ():
            own = None if begins else of_prefix[rows]
            start = branches[-1].stop if branches else 0
            branch_starts[rows] = start + lengths[rows].cumsum(0) - lengths[rows]
            first = torch.zeros_like(rows) if own is None else prefixes[own]
            branches.append(_block(start, rows, lengths[rows], first, own, prefixes))
    of_prefixes = None
    if len(prefixes):
        every = torch.arange(len(prefixes))
        of_prefixes = _block(0, every, prefixes, torch.zeros_like(prefixes), None, prefixes)
    return Packing(
        prefixes=None if of_prefixes is None else _move(of_prefixes, device),
        branches=tuple(_move(block, device) for block in branches),
        branch_starts=branch_starts,
    )


def _block(
    start: int,
    numbers: Tensor,
    lengths: Tensor,
    first: Tensor,
    parents: Tensor | None,
    prefixes: Tensor,
) -> Block:
    """A block of segments.

    Args:
        start: its first token in the row.
        numbers: (n,) which prefixes or branches they are.
        lengths: (n,) tokens of its segments.
        first: (n,) position of each segment's first token.
        parents: (n,) prefix of each, or None.
        prefixes: (G,) tokens of the prefixes.
    """
    length = int(lengths.max())
    steps = torch.arange(length)
    positions = first[:, None] + steps
    real = steps < lengths[:, None]
    key_positions, mask = positions, None
    if parents is not None:
        seen = torch.arange(int(prefixes.max())).expand(len(lengths), -1)
        seen = seen.masked_fill(seen >= prefixes[parents][:, None], -1)
        key_positions = torch.cat([seen, positions], dim=1)
        keys = key_positions[:, None, None]
        mask = (keys >= 0) & (keys <= positions[:, None, :, None])
        if bool((first == first[0]).all()):
            mask = mask[:1]
    return Block(
        start=start,
        stop=start + int(lengths.sum()),
        count=len(lengths),
        length=length,
        places=None if bool(real.all()) else real.flatten().nonzero()[:, 0],
        parents=parents,
        numbers=numbers,
        positions=positions,
        key_positions=key_positions,
        mask=mask,
    )


def _of_tokens(block: Block) -> Tensor:
    """Positions of a block's real tokens."""
    flat = block.positions.flatten()
    return flat if block.places is None else flat[block.places]


def _move(block: Block, device: torch.device | str) -> Block:
    def to(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.to(device)

    return Block(
        start=block.start,
        stop=block.stop,
        count=block.count,
        length=block.length,
        places=to(block.places),
        parents=to(block.parents),
        numbers=block.numbers,
        positions=block.positions.to(device),
        key_positions=block.key_positions.to(device),
        mask=to(block.mask),
    )
