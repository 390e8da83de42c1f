"""Key-value storage for rows of different lengths that come and go, and the cache made of it.

transformers' caches grow all rows together: none joins two of them along the batch, and cutting one
back keeps its memory. So the storage is our own. It is one block of memory, taken once and seen as
`rows x columns`: a row begins at column 0, its token at position p lies in column p, and rows
0 .. N-1 are in use. A decoder then reads all rows as one view, without gathering: gathering the
blocks of a paged layout would copy every key and value of every row at each token. In exchange a
row that ends leaves a hole, which the last row fills (`move`), and a longer row than the columns
admit lays the same memory out anew (`arrange`).

What a row does not use of its columns is masked, and must be finite: 0 times infinity is no 0. So
memory starts as zeros, and `clear` wipes what a spoiled row has left. On a CPU they are zeros that
the kernel promises: a page costs memory once a row has come that far.

Axes: Y layers, R rows, N rows in use, H key-value heads, T columns, L new tokens, d head width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

COLUMN_STEP = 32
"""Columns are counted in steps of so many, so that a layout is rarely changed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SlotShape:
    """What a decoder keeps of one token."""

    num_layers: int
    num_heads: int
    """Key-value heads."""
    head_width: int
    dtype: torch.dtype

    @property
    def bytes_per_token(self) -> int:
        """Keys and values of all layers."""
        return 2 * self.num_layers * self.num_heads * self.head_width * self.dtype.itemsize


class Slots:
    """The storage; see the module's docstring."""

    def __init__(
        self, shape: SlotShape, *, num_tokens: int, max_rows: int, device: torch.device | str
    ) -> None:
        """Args: `num_tokens` of all rows together, and the most rows at once."""
        self.shape = shape
        self.num_tokens = num_tokens
        self.max_rows = max_rows
        token_size = shape.num_heads * shape.head_width
        size = (shape.num_layers, 2, num_tokens * token_size)
        self._memory = _zeros(size, shape.dtype, torch.device(device))
        self.columns = 0
        self._view = self._memory.view(shape.num_layers, 2, -1)
        self._lay_out(max(COLUMN_STEP, num_tokens // max_rows // COLUMN_STEP * COLUMN_STEP))

    @property
    def num_rows(self) -> int:
        """Rows that the present layout has."""
        return min(self.max_rows, self.num_tokens // self.columns)

    def fits(self, lengths: Sequence[int]) -> bool:
        """Whether rows that grow to `lengths` have room together, in some layout."""
        if len(lengths) > self.max_rows:
            return False
        return len(lengths) * columns_for(lengths) <= self.num_tokens

    def arrange(self, lengths: Sequence[int], used: Sequence[int]) -> None:
        """Lay the memory out for rows that grow to `lengths`, where the present layout does not do.

        Args:
            lengths: as `fits` takes them.
            used: tokens that each of the first rows has now; they are kept.
        """
        columns = columns_for(lengths)
        if columns <= self.columns and len(lengths) <= self.num_rows:
            return
        old = self._view
        kept = [old[:, :, row, :, :length].clone() for row, length in enumerate(used)]
        self._lay_out(columns)
        for row, values in enumerate(kept):
            self._view[:, :, row, :, : values.shape[3]] = values

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of one row onto another."""
        self._view[:, :, target, :, :length] = self._view[:, :, source, :, :length]

    def clear(self, row: int) -> None:
        """Wipe a row."""
        self._view[:, :, row] = 0

    def read(self, row: int, start: int, end: int) -> Tensor:
        """A copy of the tokens [start, end) of a row: (Y, 2, H, end - start, d)."""
        return self._view[:, :, row, :, start:end].clone()

    def write(self, row: int, start: int, tokens: Tensor) -> None:
        """Put tokens (Y, 2, H, n, d) into a row from `start` on."""
        self._view[:, :, row, :, start : start + tokens.shape[3]] = tokens

    def reading(self, row: int, start: int) -> Cache:
        """A cache in which one row (1, H, L, d) is read on from position `start`."""
        return Cache(layers=[_Reading(layer, row, start) for layer in self._view])

    def decoding(self, positions: Tensor, columns: int) -> Cache:
        """A cache in which each of N rows gets one token.

        Args:
            positions: (N,) int64, of the new tokens.
            columns: how many are looked at; more than the largest position.
        """
        rows = torch.arange(len(positions), device=positions.device)
        return Cache(layers=[_Decoding(layer, rows, positions, columns) for layer in self._view])

    def _lay_out(self, columns: int) -> None:
        shape = self.shape
        self.columns = columns
        used = self.num_rows * columns * shape.num_heads * shape.head_width
        self._view = self._memory[:, :, :used].view(
            shape.num_layers, 2, self.num_rows, shape.num_heads, columns, shape.head_width
        )


def columns_for(lengths: Sequence[int]) -> int:
    """Columns that rows of these lengths need."""
    return -(-max(lengths, default=1) // COLUMN_STEP) * COLUMN_STEP


class _SlotLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """A layer's part, as far as a decoder asks for more than `update`."""

    def __init__(self, memory: Tensor, length: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.is_initialized = True
        self._memory = memory
        self._length = length

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing: the memory is there."""

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys that are looked at, and the first one's position."""
        return self._length + query_length, 0

    def get_seq_length(self) -> int:
        """Tokens before the new ones."""
        return self._length

    def get_max_length(self) -> int:
        """Not limited by the cache."""
        return -1


class _Reading(_SlotLayer):  # type: ignore[no-untyped-call]
    def __init__(self, memory: Tensor, row: int, start: int) -> None:
        super().__init__(memory, start)
        self._row = slice(row, row + 1)

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """Keys and values (1, H, L, d) in; those of all tokens up to now out."""
        end = self._length + key_states.shape[2]
        keys, values = self._memory[:, self._row, :, :end]
        keys[:, :, self._length :] = key_states
        values[:, :, self._length :] = value_states
        return keys, values


class _Decoding(_SlotLayer):  # type: ignore[no-untyped-call]
    def __init__(self, memory: Tensor, rows: Tensor, positions: Tensor, columns: int) -> None:
        super().__init__(memory, columns - 1)
        self._rows = rows
        self._positions = positions
        self._view = memory[:, : len(rows), :, :columns]

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """Keys and values (N, H, 1, d) in; (N, H, columns, d) out, to be masked."""
        keys, values = self._view
        keys[self._rows, :, self._positions] = key_states[:, :, 0]
        values[self._rows, :, self._positions] = value_states[:, :, 0]
        return keys, values


def _zeros(size: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros that take no memory of a CPU until they are written to.

    NumPy asks for zeroed pages (`calloc`); torch takes any and writes zeros on them all.
    """
    if device.type != "cpu":
        return torch.zeros(*size, dtype=dtype, device=device)
    pages = np.zeros(math.prod(size) * dtype.itemsize, dtype=np.uint8)
    return torch.from_numpy(pages).view(dtype).view(*size)
