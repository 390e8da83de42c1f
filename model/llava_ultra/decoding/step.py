"""One token: prompts read once into a cache, continued in branches, and the choice of what follows.

Axes: N rows, S prompt positions, L positions that follow, D width, V vocabulary.

Prompts are embeddings (text with image tokens inside), so the key-value cache is kept here.
`read_prompts` fills it, `branch` copies rows of it, `extend` feeds what follows. Texts
(`llava_ultra.decoding.text`) and likelihoods (`llava_ultra.decoding.likelihood`) are made of these.
Rows are aligned to the right: the same prompt gives the same tokens alone and in a batch.

The decoder's logits are the largest tensor of all, V of them for each position (608 kB a position
in float32 at a vocabulary of 151,936), so they are asked for only where a token is predicted.

What becomes of logits before a token is chosen is a seam: a `Rule` takes logits and returns logits,
and `Decoding` holds those to apply. The rules there are stand in `llava_ultra.decoding.rules`;
nothing here names one.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

from llava_ultra.model import LlavaUltra
from llava_ultra.reading.sequence import positions


class Rule(Protocol):
    """Changes what the decoder expects next, before a token is chosen."""

    def __call__(self, logits: Tensor, chosen: Sequence[Sequence[int]] = ()) -> Tensor:
        """Logits (N, V) float32 to logits (N, V); -inf for a token that is never chosen.

        Args:
            logits: what the decoder expects next.
            chosen: the tokens that each of the N rows was given since its prompt.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoding:
    """How tokens are chosen and when to stop; the default is the likeliest token each time."""

    max_tokens: int = 128
    rules: tuple[Rule, ...] = ()
    """Applied to the logits one after the other."""
    sample: bool = False
    """Whether a token is drawn by what the rules left, instead of the likeliest taken."""
    seed: int | None = None
    """Seed of each row's draws; None leaves them to torch's global state."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """N rows that the decoder has read: its cache, and what it expects next."""

    cache: DynamicCache
    """Keys and values; `extend` adds to it in place."""
    mask: Tensor
    """(N, S) bool, padding on the left."""
    last: Tensor
    """(N,) int64, position of each row's last token."""
    logits: Tensor
    """(N, V) float32, of the token that follows."""


def align_right(embeds: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Move each row's padding to the left: (N, S, D), (N, S) in the same shapes."""
    order = mask.long().argsort(dim=1, stable=True)
    moved = embeds.gather(1, order[:, :, None].expand_as(embeds))
    return moved, mask.gather(1, order)


@torch.no_grad()
def read_prompts(model: LlavaUltra, embeds: Tensor, mask: Tensor) -> Context:
    """Let the decoder read N prompts.

    Args:
        model: in evaluation mode.
        embeds: (N, S, D) prompts.
        mask: (N, S) bool, padding anywhere.
    """
    embeds, mask = align_right(embeds, mask)
    # One row has the most images and another the longest text: no row is as long as both together.
    longest = int(mask.sum(dim=1).max())
    embeds, mask = embeds[:, -longest:], mask[:, -longest:]
    cache = DynamicCache(config=model.language_model.config)  # type: ignore[arg-type]
    position_ids = positions(mask)
    logits = model.language_model(
        inputs_embeds=embeds,
        attention_mask=mask.long(),
        position_ids=position_ids,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]
    return Context(cache=cache, mask=mask, last=position_ids[:, -1], logits=logits.float())


@torch.no_grad()
def branch(context: Context, rows: Tensor) -> Context:
    """Copy rows of a context, each as often as `rows` (M,) int64 names it; the context stays."""
    cache = copy.copy(context.cache)
    cache.layers = [copy.copy(layer) for layer in context.cache.layers]
    cache.batch_select_indices(rows)
    return Context(
        cache=cache,
        mask=context.mask[rows],
        last=context.last[rows],
        logits=context.logits[rows],
    )


@torch.no_grad()
def extend(
    model: LlavaUltra, context: Context, ids: Tensor, *, all_logits: bool = False
) -> tuple[Context, Tensor]:
    """Feed L further tokens to every row; the context given is used up.

    Args:
        model: in evaluation mode.
        context: what the rows have read.
        ids: (N, L) int64.
        all_logits: whether logits are wanted of all L positions, or of the last one alone.

    Returns:
        The context after them, and the logits (N, L or 1, V), in the decoder's dtype.
    """
    mask = torch.cat([context.mask, torch.ones_like(ids, dtype=torch.bool)], dim=1)
    steps = torch.arange(1, ids.shape[1] + 1, device=ids.device)
    position_ids = context.last[:, None] + steps
    logits = model.language_model(
        inputs_embeds=model.embed(ids),
        attention_mask=mask.long(),
        position_ids=position_ids,
        past_key_values=context.cache,
        use_cache=True,
        logits_to_keep=0 if all_logits else 1,
    ).logits
    after = Context(
        cache=context.cache,
        mask=mask,
        last=position_ids[:, -1],
        logits=logits[:, -1].clone().float(),  # a view would keep all L of them alive
    )
    return after, logits


@torch.no_grad()
def iter_tokens(
    model: LlavaUltra, context: Context, decoding: Decoding, *, end_id: int
) -> Iterator[Tensor]:
    """Yield the next token of every row, (N,) int64, until all rows ended; ended rows repeat END.

    A row also ends where its prompt and answer fill the context length.

    Args:
        model: in evaluation mode.
        context: the prompts, read; they are used up.
        decoding: how to choose.
        end_id: the token that ends a row.
    """
    device = context.logits.device
    generators: list[torch.Generator | None] = [
        None if decoding.seed is None else torch.Generator(device).manual_seed(decoding.seed)
        for _ in context.logits
    ]
    done = torch.zeros(len(context.logits), dtype=torch.bool, device=device)
    chosen: list[list[int]] = [[] for _ in context.logits]
    for number in range(decoding.max_tokens):
        token = choose(context.logits, decoding, generators, chosen)
        token = torch.where(done, end_id, token)
        if decoding.rules:
            for row, given in zip(chosen, token.tolist(), strict=True):
                row.append(given)
        yield token
        full = context.last + 2 >= model.config.language.context_length
        done = done | (token == end_id) | full
        if number + 1 == decoding.max_tokens or bool(done.all()):
            return
        context, _ = extend(model, context, token[:, None])


def apply_rules(logits: Tensor, decoding: Decoding, chosen: Sequence[Sequence[int]] = ()) -> Tensor:
    """Logits (N, V) float32 by a decoding's rules, given the tokens of each row so far."""
    for rule in decoding.rules:
        logits = rule(logits, chosen)
    return logits


def choose(
    logits: Tensor,
    decoding: Decoding,
    generators: Sequence[torch.Generator | None],
    chosen: Sequence[Sequence[int]] = (),
) -> Tensor:
    """Choose one token of each row: logits (N, V) float32 to (N,) int64.

    Args:
        logits: what the decoder expects next.
        decoding: its rules, and whether to draw.
        generators: one of each row, so that a row draws the same alone and in a batch.
        chosen: the tokens of each row so far, for those rules that look at them.
    """
    logits = apply_rules(logits, decoding, chosen)
    if not decoding.sample:
        return logits.argmax(dim=-1)
    drawn = [
        torch.multinomial(row, 1, generator=generator)
        for row, generator in zip(logits.softmax(dim=-1), generators, strict=True)
    ]
    return torch.cat(drawn)
