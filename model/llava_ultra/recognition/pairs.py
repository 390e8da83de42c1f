"""What recognition learns from beside the images of a batch: reports, classes, a bank's texts.

Axes: B studies, L tokens, R class texts, C classes.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llava_ultra.recognition.bank import ClassBank

Encode = Callable[[str], list[int]]
"""A text to its tokens, the start token in front."""

_KEY_BITS = 48
"""Of a text's key: exact in float64, which ranks exchange."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextTokens:
    """Texts as tokens, padded on the right."""

    ids: Tensor
    """(R, L) int64."""
    mask: Tensor
    """(R, L) bool."""

    def to(self, device: torch.device | str) -> "TextTokens":
        """Move the tensors."""
        return TextTokens(ids=self.ids.to(device), mask=self.mask.to(device))

    def select(self, rows: Sequence[int]) -> "TextTokens":
        """Some rows, padded to the longest of them."""
        mask = self.mask[list(rows)]
        length = int(mask.sum(dim=1).max())
        return TextTokens(ids=self.ids[list(rows), :length], mask=mask[:, :length])


@dataclass(frozen=True, kw_only=True, slots=True)
class BankTokens:
    """A bank's descriptions as tokens."""

    texts: TextTokens
    class_of: Tensor
    """(R,) int64."""

    def to(self, device: torch.device | str) -> "BankTokens":
        """Move the tensors."""
        return BankTokens(texts=self.texts.to(device), class_of=self.class_of.to(device))


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairs:
    """Studies and their reports."""

    prompt: tuple[int, ...]
    """What is said to every study's images, token ids."""
    images_at: int
    """How many of them stand in front of the images."""
    reports: TextTokens
    """(B, L)."""
    keys: Tensor
    """(B,) int64, equal for equal reports."""
    labels: Tensor | None
    """(B, C) int64, 1 where a study is of a class of the bank."""
    bank: BankTokens | None

    def to(self, device: torch.device | str) -> "Pairs":
        """Move what is computed with; keys and labels are compared on the CPU or anywhere."""
        return Pairs(
            prompt=self.prompt,
            images_at=self.images_at,
            reports=self.reports.to(device),
            keys=self.keys.to(device),
            labels=None if self.labels is None else self.labels.to(device),
            bank=None if self.bank is None else self.bank.to(device),
        )

    def of_studies(self, studies: Sequence[int]) -> "Pairs":
        """Those of some studies."""
        rows = list(studies)
        return Pairs(
            prompt=self.prompt,
            images_at=self.images_at,
            reports=self.reports.select(rows),
            keys=self.keys[rows],
            labels=None if self.labels is None else self.labels[rows],
            bank=self.bank,
        )


def text_tokens(texts: Sequence[str], encode: Encode, *, max_tokens: int) -> TextTokens:
    """Encode and pad texts; what is longer than `max_tokens` is cut at its end.

    Raises:
        ValueError: there is no text, or a character has no token.
    """
    if not texts:
        raise ValueError("there is no text to read; give at least one")
    rows = [encode(text)[:max_tokens] for text in texts]
    length = max(map(len, rows))
    ids = torch.zeros(len(rows), length, dtype=torch.int64)
    mask = torch.zeros(len(rows), length, dtype=torch.bool)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row)
        mask[number, : len(row)] = True
    return TextTokens(ids=ids, mask=mask)


def bank_tokens(bank: ClassBank, encode: Encode, *, max_tokens: int) -> BankTokens:
    """A bank's descriptions as tokens."""
    rows = list(bank.texts())
    return BankTokens(
        texts=text_tokens([text for _, text in rows], encode, max_tokens=max_tokens),
        class_of=torch.tensor([bank.names.index(each.name) for each, _ in rows]),
    )


def text_keys(texts: Sequence[str]) -> Tensor:
    """A number (B,) int64 of each text, equal for equal texts."""
    digests = [hashlib.sha256(text.encode()).digest()[: _KEY_BITS // 8] for text in texts]
    return torch.tensor([int.from_bytes(digest, "little") for digest in digests])
