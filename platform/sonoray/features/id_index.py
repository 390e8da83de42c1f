"""Where each image's features lie, in 24 bytes an image.

A dictionary of the ids takes 220 bytes an image, of each of two towers and in every process that
reads them. This index holds a hash of 16 bytes, a batch and a row, sorted by the hash. Two of a
billion ids share a hash with a probability of 1e-21.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_HASH_BYTES = 16


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Places:
    """Parallel arrays, sorted by hash."""

    hashes: npt.NDArray[np.bytes_]
    """(N,) S16."""
    batches: npt.NDArray[np.int32]
    rows: npt.NDArray[np.int32]


class IdIndex:
    """Batch and row by id; a batch that was added stays as it is.

    A reader in another thread sees a batch wholly or not at all.
    """

    def __init__(self) -> None:
        self._names: list[str] = []
        self._places = _places([], [], [])

    def __len__(self) -> int:
        return len(self._places.hashes)

    def add(self, batches: Iterable[tuple[str, Sequence[str]]]) -> None:
        """Index committed batches, each a name and its ids; the first place of an id counts."""
        names, hashes, numbers, rows = list(self._names), [], [], []
        for name, ids in batches:
            hashes.append(_hashes(ids))
            numbers.append(np.full(len(ids), len(names), dtype=np.int32))
            rows.append(np.arange(len(ids), dtype=np.int32))
            names.append(name)
        if not hashes:
            return
        known = self._places
        self._names = names
        self._places = _places(
            [known.hashes, *hashes], [known.batches, *numbers], [known.rows, *rows]
        )

    def find(self, ids: Sequence[str]) -> list[tuple[str, int] | None]:
        """Return batch and row of each id; None of one that is not known."""
        known = self._places
        wanted = _hashes(ids)
        places = np.searchsorted(known.hashes, wanted)
        inside = np.minimum(places, max(0, len(known.hashes) - 1))
        if not len(known.hashes):
            return [None] * len(ids)
        found = known.hashes[inside] == wanted
        return [
            (self._names[known.batches[place]], int(known.rows[place])) if hit else None
            for place, hit in zip(inside.tolist(), found.tolist(), strict=True)
        ]


def _hashes(ids: Sequence[str]) -> npt.NDArray[np.bytes_]:
    digests = [hashlib.blake2b(each.encode(), digest_size=_HASH_BYTES).digest() for each in ids]
    return np.array(digests, dtype=f"S{_HASH_BYTES}")


def _places(
    hashes: Sequence[npt.NDArray[np.bytes_]],
    batches: Sequence[npt.NDArray[np.int32]],
    rows: Sequence[npt.NDArray[np.int32]],
) -> _Places:
    if not hashes:
        empty = np.zeros(0, dtype=np.int32)
        return _Places(hashes=_hashes([]), batches=empty, rows=empty)
    ordered, first = np.unique(np.concatenate(hashes), return_index=True)
    return _Places(
        hashes=ordered,
        batches=np.concatenate(batches)[first],
        rows=np.concatenate(rows)[first],
    )
