"""Decoding rules: logits in, logits out, before a token is chosen.

Each is a frozen configuration that is called on logits (N, V) and on the tokens that each row was
given since its prompt; `DecodingRule` is the union of them. A new way of decoding is a class here
or in a module of its own, and a member of the union; the loop
(`llava_ultra.decoding.step`) knows the protocol `Rule` alone.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from llava_ultra.decoding.step import Decoding
from llava_ultra.towers.tower_config import ModelPart

LEAST_TEMPERATURE = 1e-5
"""Below it logits divided by the temperature overflow float32, and what is left is a greedy choice
anyway."""


class Temperature(ModelPart):
    """Divides the logits: above 1 unlikely tokens come up more often, below 1 more rarely."""

    type: Literal["temperature"] = "temperature"
    value: float = Field(ge=LEAST_TEMPERATURE)

    def __call__(self, logits: Tensor, chosen: Sequence[Sequence[int]] = ()) -> Tensor:
        """Logits (N, V) to logits (N, V)."""
        return logits / self.value


class TopP(ModelPart):
    """Keeps the likeliest tokens that together have a share of the probability, and no other.

    A. Holtzman and others, "The curious case of neural text degeneration" (arXiv 1904.09751). The
    token that reaches the share is kept, so that there always is one.
    """

    type: Literal["top_p"] = "top_p"
    share: float = Field(gt=0, le=1)

    def __call__(self, logits: Tensor, chosen: Sequence[Sequence[int]] = ()) -> Tensor:
        """Logits (N, V) to logits (N, V)."""
        if self.share == 1:  # rounding would drop the unlikeliest
            return logits
        order = logits.argsort(dim=-1, descending=True, stable=True)
        shares = logits.gather(-1, order).softmax(dim=-1)
        before = shares.cumsum(dim=-1) - shares  # what likelier tokens have together
        dropped = torch.zeros_like(logits, dtype=torch.bool).scatter(
            -1, order, before >= self.share
        )
        return logits.masked_fill(dropped, -torch.inf)


class Penalties(ModelPart):
    """Takes from the logits of tokens that the answer has already, as OpenAI's API defines it."""

    type: Literal["penalties"] = "penalties"
    frequency: float = Field(default=0.0, ge=-2, le=2)
    """For each time that the token stands in the answer."""
    presence: float = Field(default=0.0, ge=-2, le=2)
    """Once, where it stands there at all."""

    def __call__(self, logits: Tensor, chosen: Sequence[Sequence[int]] = ()) -> Tensor:
        """Logits (N, V) to logits (N, V)."""
        lowered = logits.clone()
        for row, ids in zip(lowered, chosen, strict=True):
            counts = Counter(ids)
            if not counts:
                continue
            places = torch.tensor(list(counts), device=logits.device)
            times = row.new_tensor(list(counts.values()))
            row[places] -= self.frequency * times + self.presence
        return lowered


class Without(ModelPart):
    """Never chooses one token: the end token, where an answer has to reach its full length."""

    type: Literal["without"] = "without"
    token: int = Field(ge=0)

    def __call__(self, logits: Tensor, chosen: Sequence[Sequence[int]] = ()) -> Tensor:
        """Logits (N, V) to logits (N, V)."""
        return logits.index_fill(-1, torch.tensor([self.token], device=logits.device), -torch.inf)


DecodingRule = Annotated[Temperature | TopP | Penalties | Without, Field(discriminator="type")]


def build_decoding(
    *,
    max_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int | None = None,
    penalties: Penalties | None = None,
    without: int | None = None,
) -> Decoding:
    """Decoding as a request asks for it.

    Args:
        max_tokens: longest answer.
        temperature: 0 takes the likeliest token, and so does anything below `LEAST_TEMPERATURE`.
        top_p: share of the probability that is drawn from; 1 draws from all tokens.
        seed: of each row's draws.
        penalties: on tokens that the answer has already; before the temperature, as elsewhere.
        without: a token that is never chosen.
    """
    rules: tuple[DecodingRule, ...] = ()
    if penalties is not None and (penalties.frequency or penalties.presence):
        rules += (penalties,)
    if without is not None:
        rules += (Without(token=without),)
    if temperature < LEAST_TEMPERATURE:
        return Decoding(max_tokens=max_tokens, rules=rules)
    rules += (Temperature(value=temperature),)
    if top_p < 1:
        rules += (TopP(share=top_p),)
    return Decoding(max_tokens=max_tokens, rules=rules, sample=True, seed=seed)
