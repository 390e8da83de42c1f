"""Texts from prompts: a batch at once, or one piece by piece.

Axes: N rows, S prompt positions, D width.

Both take the tokens of `llava_ultra.decoding.step` and give the same text for the same prompt.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

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
            if all(e or _find_stop(t, stop) is not None for e, t in zip(ended, texts, strict=True)):
                break
    texts = texts if stop else _texts(tokenizer, columns, end)
    lengths = _lengths(columns, end)
    return [
        Generated(
            text=text[: _find_stop(text, stop)],
            is_cut=_find_stop(text, stop) is None and length >= min(decoding.max_tokens, limit),
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

    A piece is held back while it ends inside a character (byte-level tokens may split one) or
    inside what may become a stop string, so pieces always join to the text that `generate` gives.

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
    ids: list[int] = []
    sent = ""
    for token in iter_tokens(model, context, decoding, end_id=end):
        if int(token) == end:
            break
        ids.append(int(token))
        text = decode_text(tokenizer, ids)
        cut = _find_stop(text, stop)
        if cut is not None:
            yield from _piece(sent, text[:cut])
            return
        ready = text[: len(text) - _held_back(text, stop)]
        if len(ready) > len(sent):
            yield ready[len(sent) :]
            sent = ready
        if should_stop is not None and should_stop():
            return
    yield from _piece(sent, decode_text(tokenizer, ids))


def _texts(tokenizer: PreTrainedTokenizerFast, columns: Sequence[Tensor], end: int) -> list[str]:
    """Text of each row up to its end token."""
    rows = torch.stack(list(columns), dim=1).tolist()
    return [decode_text(tokenizer, row[: row.index(end)] if end in row else row) for row in rows]


def _lengths(columns: Sequence[Tensor], end: int) -> list[int]:
    """Tokens of each row before its end token."""
    ended = torch.stack(list(columns), dim=1) == end
    return ended.cummax(dim=1).values.logical_not().sum(dim=1).tolist()


def _find_stop(text: str, stop: Sequence[str]) -> int | None:
    """Where the first stop string begins; None where there is none."""
    return min((at for at in map(text.find, stop) if at >= 0), default=None)


def _piece(sent: str, text: str) -> Iterator[str]:
    if len(text) > len(sent):
        yield text[len(sent) :]


def _held_back(text: str, stop: Sequence[str]) -> int:
    """How many characters at the end may still change."""
    broken = len(text) - len(text.rstrip("\ufffd"))
    starts = [size for word in stop for size in range(1, len(word)) if text.endswith(word[:size])]
    return max([broken, *starts])
