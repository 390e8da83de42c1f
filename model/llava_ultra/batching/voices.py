"""What else is heard where a token is chosen: readings by other adapters, or of another prompt.

An answer with voices is several rows of the batch, which get their logits in the same pass of the
decoder. One of them leads: what the rule makes of all their logits is its next token, and theirs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llava_ultra.batching.prefix import BlockKey

Contrast = Callable[[Tensor, Sequence[Sequence[int]]], Tensor]
"""Logits (N, 1 + M, V) float32 of N leading rows and their voices, in order, and the tokens that
each was given so far, to the logits (N, V) that tokens are chosen from; -inf for one that is never
chosen. Rows whose rules are equal are handed to it together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Voice:
    """A further reading."""

    adapter: str
    """What it reads with."""
    embeds: Tensor | None = None
    """(S, D), a prompt of its own. None shares the leading row's prompt as that row's adapter read
    it, save for its last token: the voice's own adapter begins there."""
    keys: Sequence[BlockKey] = ()
    """The blocks of its own prompt, named for its adapter as well."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Voices:
    """All that is heard beside a row, and the rule that hears it."""

    members: Sequence[Voice]
    contrast: Contrast

    def lengths(self, num_prompt_tokens: int) -> list[int]:
        """Tokens of each member's prompt, where the leading row's has `num_prompt_tokens`."""
        return [
            num_prompt_tokens if voice.embeds is None else len(voice.embeds)
            for voice in self.members
        ]


def contrasted(
    led: Mapping[int, tuple[Contrast, list[int], Sequence[int]]], logits: Tensor
) -> dict[int, Tensor]:
    """By leading row the logits (1, V) that its rule makes of all of them, equal rules at once.

    Args:
        led: by row its rule, the rows that it hears, itself first, and its tokens so far.
        logits: (N, V) float32 of all rows.
    """
    together: dict[tuple[Contrast, int], list[int]] = {}
    for row, (contrast, heard, _) in led.items():
        together.setdefault((contrast, len(heard)), []).append(row)
    spoken: dict[int, Tensor] = {}
    for (contrast, _), rows in together.items():
        places = torch.tensor([led[row][1] for row in rows], device=logits.device)
        found = contrast(logits[places], [led[row][2] for row in rows])
        spoken |= {row: found[at : at + 1] for at, row in enumerate(rows)}
    return spoken
