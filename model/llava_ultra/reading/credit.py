"""Each question's own credit for the images that it picked, where questions share a reading.

The gradient of a hard pick flows through the soft weights of all images (`connector.pick`): how
much better would this question's answer be with a little of another image? Questions of a study
that picked the same images are answered from one pass over them, and backward, that pass gets what
its questions ask added up. A sum tells no pick from another. So what each question asks of the
keys and values is kept apart (`passage.Asked`), and goes back through the pass over the prefixes
by itself, without the gradients of any weight, to what it asks of the images' tokens. The product
of that with the tokens of every image is the gradient of the question's pick. So the sampler learns
what it learns from a row for each question, to rounding.

Of Q questions that share, Q - 1 go back so; the first is left over from the sum. They cost as many
more backward passes over the prefixes, all readings at once that are shared. Nothing of it is done
for questions alone, and for samplers whose pick is not learned.

Axes: B studies, K images, M slots (images kept), P tokens, G readings, G' prefixes (shared readings
behind the same words), N rows, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llava_ultra.reading.passage import Asked, Passage


@dataclass(frozen=True, kw_only=True, slots=True)
class Picks:
    """How the rows of shared readings picked their images."""

    slots: Tensor
    """(N, M, K): the pick of each row, one-hot in value, whose gradient is wanted."""
    tokens: Tensor
    """(B, K, P, D): the tokens that were picked from."""
    study_index: Tensor
    """(N,) int64: the study of each row; on the CPU, as `reading`."""
    reading: Tensor
    """(N,) int64: the reading of each row. Its first row has the gradient of the reading."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Turn:
    """One more backward pass: at most one row of each reading."""

    rows: Tensor
    """(n,) int64, on the CPU."""
    firsts: Tensor
    """(n,) int64: the first row of each one's reading."""
    readings: Tensor
    """(n,) int64: the reading of each, another one each."""


def give_credit(passage: Passage, picks: Picks, *, images: Tensor, scale: Tensor) -> None:
    """Let every row's pick get its own gradient from what stands behind the prefixes.

    Between the two passes.

    Args:
        passage: after the pass over the prefixes.
        picks: of the rows.
        images: (G, M*P, D), the images' tokens as the prefixes have them.
        scale: (), by which they are larger than those picked from.
    """
    turns = _turns(picks.reading)
    if not turns:
        return
    seen = [each for layer in passage.seen.values() for each in layer]
    kept_apart = torch.cat([turn.rows for turn in turns])
    asked = [Asked(kept_apart) for _ in seen]
    kept = _Credit.apply(picks.slots, picks, asked, turns, scale, images, *seen)
    for place, module in enumerate(list(passage.seen)):
        passage.seen[module] = (kept[2 * place], kept[2 * place + 1])
        passage.asked[module] = (asked[2 * place], asked[2 * place + 1])


def _turns(reading: Tensor) -> list[_Turn]:
    """Rows behind the first of their reading: the second ones, the third ones, and so on."""
    firsts: dict[int, int] = {}
    waiting = list(enumerate(reading.tolist()))
    turns: list[_Turn] = []
    while waiting:
        taken: dict[int, int] = {}
        for row, number in waiting:
            taken.setdefault(number, row)
        if firsts:
            rows = torch.tensor(list(taken.values()))
            of_reading = torch.tensor([firsts[number] for number in taken])
            turns.append(_Turn(rows=rows, firsts=of_reading, readings=reading[rows]))
        firsts = firsts or taken
        gone = set(taken.values())
        waiting = [(row, number) for row, number in waiting if row not in gone]
    return turns


class _Credit(torch.autograd.Function):
    """Keys and values of prefixes as they are; backward, the slots' gradients beside."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's
        slots: Tensor,
        picks: Picks,
        asked: Sequence[Asked],
        turns: Sequence[_Turn],
        scale: Tensor,
        images: Tensor,
        *seen: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.study_index, ctx.asked, ctx.turns = picks.study_index, asked, turns
        ctx.save_for_backward(slots, picks.tokens.detach(), scale, images, *seen)
        return tuple(each.view_as(each) for each in seen)

    @staticmethod
    def backward(ctx: Any, *sums: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401 - torch's
        slots, tokens, scale, images, *seen = ctx.saved_tensors
        gradient = torch.zeros_like(slots)
        for turn in ctx.turns:
            behind = [_of_turn(turn, *each) for each in zip(ctx.asked, sums, strict=True)]
            (found,) = torch.autograd.grad(seen, [images], behind, retain_graph=True)
            device = found.device
            studies = tokens.index_select(0, ctx.study_index[turn.rows].to(device))
            own = found.index_select(0, turn.readings.to(device)).to(tokens.dtype) * scale
            own = own.unflatten(1, (-1, tokens.shape[2]))  # (n, M, P, D)
            credit = torch.einsum("nmpd,nkpd->nmk", own, studies).to(slots.dtype)
            gradient.index_add_(0, turn.rows.to(device), credit)
            gradient.index_add_(0, turn.firsts.to(device), credit, alpha=-1)
        for each in ctx.asked:
            each.pieces.clear()
        return gradient, None, None, None, None, None, *sums


def _of_turn(turn: _Turn, asked: Asked, total: Tensor) -> Tensor:
    """What the rows of a turn ask of keys or values (G', length, H', d); 0 of others' prefixes."""
    behind = torch.zeros_like(total)
    for rows, prefixes, gradient in asked.pieces:
        places = torch.isin(rows, turn.rows).nonzero()[:, 0].to(total.device)
        behind.index_copy_(0, prefixes.index_select(0, places), gradient.index_select(0, places))
    return behind
