"""Beginnings of prompts that were read before, kept by what they say.

Questions about one study share the images, and turns of one conversation share all that was said.
A prompt is cut into blocks, and a block's key is a digest of all that stands up to its end, so an
equal key means equal keys and values. Blocks are copies: a row that goes on from them never
changes them, and the store never holds a row's memory.

A text token is named by its id, an image token by the digest of its image's fused tokens and its
place in it. So two prompts share a beginning where they say the same and show the same images in
the same order, whoever sent them and however often the images were encoded. Whoever asks faster
than he could has learned that somebody asked about the same images before: one store is one tenant.

The budget is in bytes. The blocks that were used longest ago go first; of one prompt's blocks the
last ones are the oldest, so that what is left of it is still a beginning.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

BLOCK = 32
"""Tokens of a block. A whole block is shared or none of it: a second question reads at most 31
tokens that it could have shared. Images end a block, so that what follows them never costs them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockKey:
    """A block of a prompt, and what names it."""

    start: int
    """Position of its first token."""
    end: int
    """One behind its last one."""
    digest: bytes
    """Of everything before `end`."""


def prompt_keys(
    ids: Sequence[int], images_at: int, images: Sequence[Tensor], *, adapter: str = ""
) -> list[BlockKey]:
    """Name the blocks of a prompt.

    Args:
        ids: of its text.
        images_at: how many of them stand in front of the images.
        images: (P, D) each, in the order in which the decoder sees them.
        adapter: what names the adapter that the prompt is read with: another one makes other keys
            and values of the same words.
    """
    words = [token.to_bytes(4) for token in ids]
    shown: list[bytes] = []
    for image in images:
        digest = hashlib.sha256(image.cpu().contiguous().numpy().tobytes()).digest()
        shown += [digest + place.to_bytes(4) for place in range(len(image))]
    names = [*words[:images_at], *shown, *words[images_at:]]
    ends = [images_at, images_at + len(shown)]
    return block_keys(names, ends=ends, salt=adapter.encode())


def block_keys(
    names: Sequence[bytes], *, ends: Sequence[int] = (), salt: bytes = b""
) -> list[BlockKey]:
    """Cut a prompt into blocks; tokens at its end that fill none are in no block.

    Args:
        names: what names each of the prompt's tokens.
        ends: positions where a block ends early.
        salt: what else an equal key has to mean.
    """
    keys: list[BlockKey] = []
    digest = hashlib.sha256(salt).digest() if salt else b""
    start = 0
    while True:
        end = min([end for end in ends if end > start] + [start + BLOCK])
        if end > len(names):
            return keys
        summed = hashlib.sha256(digest)
        for name in names[start:end]:
            summed.update(len(name).to_bytes(4) + name)
        digest = summed.digest()
        keys.append(BlockKey(start=start, end=end, digest=digest))
        start = end


class PrefixStore:
    """Blocks by key, up to a budget."""

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._blocks: OrderedDict[bytes, Tensor] = OrderedDict()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._blocks)

    def find(self, keys: Sequence[BlockKey]) -> list[Tensor]:
        """The blocks that are there of a prompt's beginning, in order."""
        found: list[Tensor] = []
        for key in keys:
            block = self._blocks.get(key.digest)
            if block is None:
                break
            found.append(block)
        self._touch(keys[: len(found)])
        return found

    def put(self, keys: Sequence[BlockKey], read: Callable[[BlockKey], Tensor]) -> None:
        """Keep a prompt's blocks, the first ones first, as far as the budget goes.

        Args:
            keys: of all its blocks.
            read: gives a copy of one; asked for those alone that are not there.
        """
        self._touch(keys)
        own = {key.digest for key in keys}
        for key in keys:
            if key.digest in self._blocks:
                continue
            block = read(key)
            if not self._make_room(block.nbytes, spared=own):
                break
            self._blocks[key.digest] = block
            self.size_bytes += block.nbytes
        self._touch(keys)

    def _make_room(self, num_bytes: int, *, spared: set[bytes]) -> bool:
        while self.size_bytes + num_bytes > self._max_bytes:
            oldest = next(iter(self._blocks), None)
            if oldest is None or oldest in spared:
                return False
            self.size_bytes -= self._blocks.pop(oldest).nbytes
        return True

    def _touch(self, keys: Sequence[BlockKey]) -> None:
        for key in reversed(keys):  # the first one is the latest to go
            if key.digest in self._blocks:
                self._blocks.move_to_end(key.digest)
