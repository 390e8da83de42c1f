"""Texts from prompts: a batch at once, or one piece by piece.

Axes: N rows, S prompt positions, D width.

Both take the tokens of `llava_ultra.decoding.step` and give the same text for the same prompt.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from llava_ultra.decoding.pieces import Pieces, find_stop
from llava_ultra.decoding.step import Context, Decoding, iter_tokens, read_prompts
from llava_ultra.language.chat import decode_text, end_id
from llava_ultra.model import LlavaUltra


@dataclass(frozen=True, kw_only=True, slots=True)
class Generated:
    """One answer."""

    text: str
    is_cut: bool
    """Whether it ended because no more tokens were allowed, or fit the context."""


def generate(
    model: LlavaUltra,
    tokenizer: PreTrainedTokenizerFast,
    context: Context,
    decoding: Decoding,
    *,
    stop: Sequence[str] = (),
) -> list[Generated]:
    """Answer N prompts at once, each without its end token.

    Args:
        model: in evaluation mode.
        tokenizer: of the same language side.
        context: the prompts, read; they are used up.
        decoding: how to choose.
        stop: strings that end an answer and are not part of it.
    """
    end = end_id(tokenizer)
    room = (model.config.language.context_length - context.mask.sum(dim=1)).tolist()
    columns: list[Tensor] = []
    texts: list[str] = []
    for column in iter_tokens(model, context, decoding, end_id=end):
        columns.append(column)
        if stop:
            texts = _texts(tokenizer, columns, end)
            ended = (torch.stack(columns) == end).any(dim=0).tolist()
            if all(e or find_stop(t, stop) is not None for e, t in zip(ended, texts, strict=True)):
                break
    texts = texts if stop else _texts(tokenizer, columns, end)
    lengths = _lengths(columns, end)
    return [
        Generated(
            text=text[: find_stop(text, stop)],
            is_cut=find_stop(text, stop) is None and length >= min(decoding.max_tokens, limit),
        )
        for text, length, limit in zip(texts, lengths, room, strict=True)
    ]


def stream(
    model: LlavaUltra,
    tokenizer: PreTrainedTokenizerFast,
    embeds: Tensor,
    decoding: Decoding,
    *,
    stop: Sequence[str] = (),
    should_stop: Callable[[], bool] | None = None,
) -> Iterator[str]:
    """Answer one prompt piece by piece.

    The pieces join to the text that `generate` gives; see `llava_ultra.decoding.pieces`.

    Args:
        model: in evaluation mode.
        tokenizer: of the same language side.
        embeds: (1, S, D).
        decoding: how to choose.
        stop: strings that end the answer and are not part of it.
        should_stop: asked before each token; True ends the answer.
    """
    end = end_id(tokenizer)
    mask = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device)
    context = read_prompts(model, embeds, mask)
    pieces = Pieces(tokenizer, stop)
    for token in iter_tokens(model, context, decoding, end_id=end):
        if int(token) == end or pieces.add(int(token)):
            break
        if piece := pieces.take():
            yield piece
        if should_stop is not None and should_stop():
            return
    if piece := pieces.rest():
        yield piece


def _texts(tokenizer: PreTrainedTokenizerFast, columns: Sequence[Tensor], end: int) -> list[str]:
    """Text of each row up to its end token."""
    rows = torch.stack(list(columns), dim=1).tolist()
    return [decode_text(tokenizer, row[: row.index(end)] if end in row else row) for row in rows]


def _lengths(columns: Sequence[Tensor], end: int) -> list[int]:
    """Tokens of each row before its end token."""
    ended = torch.stack(list(columns), dim=1) == end
    return ended.cummax(dim=1).values.logical_not().sum(dim=1).tolist()
