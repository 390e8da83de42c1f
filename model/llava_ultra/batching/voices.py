"""What else is heard where a token is chosen: readings by other adapters, or of another prompt.

An answer with voices is several rows of the batch, which get their logits in the same pass of the
decoder. One of them leads: what the rule makes of all their logits is its next token, and theirs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from llava_ultra.batching.prefix import BlockKey

Contrast = Callable[[Tensor, Sequence[int]], Tensor]
"""Logits (1 + M, V) float32 of the leading row and its voices, in order, and the tokens chosen so
far, to the logits (V,) that the token is chosen from; -inf for one that is never chosen."""


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
