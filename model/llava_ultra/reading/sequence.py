"""From texts and picked images to what one call of the decoder reads.

A `Reading` holds both apart. Inference puts them together as padded rows (`Reading.embeds`), which
fill its key-value cache. Training packs them (`pack_reading`): the images of a reading once, the
texts behind them as branches; or pads rows (`pad_reading`) for a decoder that cannot read branches.

Axes: N text rows, L text tokens, G readings, G' prefixes (readings behind the same words), M*P
image tokens of a reading, D width, S = M*P + L, A answer tokens of all rows, R rows of T tokens
that the decoder reads.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llava_ultra.batch import TextBatch
from llava_ultra.connector.pick import Selection
from llava_ultra.language.chat import IGNORED
from llava_ultra.reading.credit import Picks
from llava_ultra.reading.decoder_input import Prefixes, Sequence
from llava_ultra.reading.packing import pack


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What the decoder is given to read: texts, and the images that stand in them."""

    selection: Selection
    words: Tensor
    """(N, L, D): the embedded text."""
    word_mask: Tensor
    """(N, L) bool."""
    images: Tensor
    """(G, M*P, D): the tokens of each reading's images, in the decoder's size."""
    scale: Tensor
    """(): by which they are larger than the fused tokens."""
    picks: Picks | None
    """How rows that share a reading picked it, where their picks learn."""
    images_at: int
    """Text tokens in front of the images."""

    @property
    def embeds(self) -> Tensor:
        """(N, S, D): each text with its images' tokens at their place."""
        at, rows = self.images_at, self.selection.reading.to(self.images.device)
        parts = [self.words[:, :at], self.images.index_select(0, rows), self.words[:, at:]]
        return torch.cat(parts, dim=1)

    @property
    def mask(self) -> Tensor:
        """(N, S) bool."""
        at, images = self.images_at, self.selection.mask[self.selection.reading]
        return torch.cat([self.word_mask[:, :at], images, self.word_mask[:, at:]], dim=1)


def answer_places(text: TextBatch) -> tuple[Tensor, Tensor]:
    """Row and place of every answer token, each (A,) int64 on the CPU."""
    labels = text.labels.cpu().clone()
    labels[:, 0] = IGNORED  # nothing stands before it
    rows, places = (labels != IGNORED).nonzero(as_tuple=True)
    return rows, places


def follows_images(text: TextBatch) -> bool:
    """Whether some answer begins right behind the images, and so has no word to predict it."""
    _, places = answer_places(text)
    return bool((places <= text.images_at).any())


def pack_reading(reading: Reading, text: TextBatch) -> Sequence:
    """Pack all texts into rows: one of a prefix for each shared reading, one of all texts.

    The prefix is the text in front of the images and the images; texts that differ before their
    images have prefixes of their own. A text that shares its images with none stands in the second
    row as a whole: nothing of it is read twice, or asked back. Not for texts that answer right
    behind the images (`follows_images`).
    """
    device, at = reading.words.device, reading.images_at
    rows_of, length, width = reading.words.shape
    of_row, first, images_of = _prefixes(reading, text)
    real = reading.selection.mask.cpu()  # (G, M*P)
    own = reading.selection.reading.cpu()
    images = rows_of * length + torch.arange(real.numel()).view(real.shape)
    heads = [[torch.arange(at) + row * length, images[g][real[g]]] for row, g in enumerate(own)]
    lengths = text.mask.sum(dim=1).cpu() - at
    whole = of_row < 0
    num_images = real.sum(dim=1)
    packing = pack(
        (at + num_images[images_of]).tolist(),
        torch.where(whole, lengths + at + num_images[own], lengths).tolist(),
        of_row.tolist(),
        device=device,
    )
    starts = packing.branch_starts
    branches = [
        [*(heads[row] if whole[row] else ()), row * length + at + torch.arange(int(lengths[row]))]
        for row in starts.argsort().tolist()
    ]
    # all that may be read; every place in it is taken from here
    table = torch.cat([reading.words.reshape(-1, width), reading.images.reshape(-1, width)])

    def read(pieces: Iterable[Iterable[Tensor]]) -> Tensor:
        places = [piece for of_row in pieces for piece in of_row]
        taken = torch.cat(places) if places else torch.zeros(0, dtype=torch.int64)
        return table.index_select(0, taken.to(device))[None]

    rows, places = answer_places(text)
    behind = torch.where(whole, num_images[own], -at)  # of the row's place among its text tokens
    sources = starts[rows] + places + behind[rows] - 1
    return Sequence(
        embeds=read(branches),
        arguments={"position_ids": packing.branch_positions},
        prefixes=Prefixes(
            embeds=read(heads[row] for row in first.tolist()),
            images=reading.images,
            scale=reading.scale,
            picks=reading.picks,
            packing=packing,
        ),
        rows=rows,
        places=places,
        sources=sources.to(device),
    )


def _prefixes(reading: Reading, text: TextBatch) -> tuple[Tensor, Tensor, Tensor]:
    """The prefix of each row (N,), and of each prefix its first row and its reading (G', each).

    A row whose reading is shared by none has none: -1.
    """
    heads = text.ids[:, : reading.images_at].tolist()
    own = reading.selection.reading.tolist()
    readers = Counter(own)
    numbers: dict[tuple[int, ...], int] = {}
    of_row: list[int] = []
    first: list[int] = []
    for row, (images, head) in enumerate(zip(own, heads, strict=True)):
        if readers[images] == 1:
            of_row.append(-1)
            continue
        number = numbers.setdefault((images, *head), len(numbers))
        if number == len(first):
            first.append(row)
        of_row.append(number)
    images_of = [own[row] for row in first]
    return tuple(torch.tensor(each, dtype=torch.int64) for each in (of_row, first, images_of))  # type: ignore[return-value]


def pad_reading(reading: Reading, text: TextBatch) -> Sequence:
    """A padded row for each text."""
    embeds, mask = reading.embeds, reading.mask
    rows, places = answer_places(text)
    num_images = reading.images.shape[1]
    columns = torch.where(places > reading.images_at, places + num_images, places) - 1
    columns = torch.where(places == reading.images_at, places + num_images - 1, columns)
    arguments: dict[str, Any] = {}
    if not bool(mask.all()):
        arguments = {
            "attention_mask": mask.long().to(embeds.device),
            "position_ids": positions(mask).to(embeds.device),
        }
    return Sequence(
        embeds=embeds,
        arguments=arguments,
        prefixes=None,
        rows=rows,
        places=places,
        sources=(rows * embeds.shape[1] + columns).to(embeds.device),
    )


def positions(mask: Tensor) -> Tensor:
    """Position ids (N, S) that count real tokens only, wherever the padding lies."""
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0)
