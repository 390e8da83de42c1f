"""Generation from embeddings: batched or streamed, greedy or sampled, and answer likelihoods.

Axes: N rows, S prompt positions, D width, V vocabulary.

Prompts are embeddings (text with image tokens inside), so the loop keeps the key-value cache itself
and feeds one token a step. Rows are aligned to the right: the same prompt gives the same tokens
alone and in a batch. Sampling keeps that: each row draws from a generator of its own, all of them
from the one seed.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedTokenizerFast

from llava_ultra.batch import TextBatch
from llava_ultra.language.chat import decode_text, end_id
from llava_ultra.model import LlavaUltra, Reading, positions

LEAST_TEMPERATURE = 1e-5
"""Below it logits divided by the temperature overflow float32, and what is left is a greedy choice
anyway."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoding:
    """How tokens are chosen and when to stop."""

    max_tokens: int = 128
    temperature: float = 0.0
    """0 picks the likeliest token, and so does anything below `LEAST_TEMPERATURE`."""
    seed: int | None = None
    """Seed of each row's sampling; None leaves it to torch's global state."""


def align_right(embeds: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Move each row's padding to the left: (N, S, D), (N, S) in the same shapes."""
    order = mask.long().argsort(dim=1, stable=True)
    moved = embeds.gather(1, order[:, :, None].expand_as(embeds))
    return moved, mask.gather(1, order)


@torch.no_grad()
def iter_tokens(
    model: LlavaUltra, embeds: Tensor, mask: Tensor, decoding: Decoding, *, end_id: int
) -> Iterator[Tensor]:
    """Yield the next token of every row, (N,) int64, until all rows ended; ended rows repeat END.

    A row also ends where its prompt and answer fill the context.

    Args:
        model: in evaluation mode.
        embeds: (N, S, D) prompts.
        mask: (N, S) bool, padding anywhere.
        decoding: how to choose.
        end_id: the token that ends a row.
    """
    embeds, mask = align_right(embeds, mask)
    generators: list[torch.Generator | None] = [
        None if decoding.seed is None else torch.Generator(embeds.device).manual_seed(decoding.seed)
        for _ in embeds
    ]
    cache = DynamicCache(config=model.language_model.config)  # type: ignore[arg-type]
    done = torch.zeros(len(embeds), dtype=torch.bool, device=embeds.device)
    position_ids = positions(mask)
    for _ in range(decoding.max_tokens):
        logits = model.language_model(
            inputs_embeds=embeds,
            attention_mask=mask.long(),
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]
        token = _choose(logits.float(), decoding.temperature, generators)
        token = torch.where(done, end_id, token)
        yield token
        full = position_ids[:, -1] + 2 >= model.config.language.context_length
        done = done | (token == end_id) | full
        if bool(done.all()):
            return
        embeds = model.embed(token[:, None])
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        position_ids = position_ids[:, -1:] + 1


def generate(
    model: LlavaUltra,
    tokenizer: PreTrainedTokenizerFast,
    reading: Reading,
    decoding: Decoding,
    *,
    stop: Sequence[str] = (),
) -> list[str]:
    """Answer N prompts at once, each without its end token.

    Args:
        model: in evaluation mode.
        tokenizer: of the same language side.
        reading: the prompts.
        decoding: how to choose.
        stop: strings that end an answer and are not part of it.
    """
    end = end_id(tokenizer)
    columns: list[Tensor] = []
    texts: list[str] = []
    for column in iter_tokens(model, reading.embeds, reading.mask, decoding, end_id=end):
        columns.append(column)
        if stop:
            texts = _texts(tokenizer, columns, end)
            ended = (torch.stack(columns) == end).any(dim=0).tolist()
            if all(e or _find_stop(t, stop) is not None for e, t in zip(ended, texts, strict=True)):
                break
    texts = texts if stop else _texts(tokenizer, columns, end)
    return [text[: _find_stop(text, stop)] for text in texts]


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
    ids: list[int] = []
    sent = ""
    for token in iter_tokens(model, embeds, mask, decoding, end_id=end):
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


@torch.no_grad()
def answer_log_likelihoods(
    model: LlavaUltra,
    tokens: Tensor,
    image_mask: Tensor,
    text: TextBatch,
    feature_scores: Tensor | None = None,
) -> Tensor:
    """Log-likelihood of each row's answer, its end token included.

    Args:
        model: in evaluation mode.
        tokens: (B, K, P, D) fused tokens.
        image_mask: (B, K) bool.
        text: N rows with answers as labels.
        feature_scores: (B, K), where they were computed before.

    Returns:
        (N,) float32.
    """
    reading = model.read(tokens, image_mask, text, feature_scores)
    return model.answer_log_probs(reading, text).sum(dim=1)


def _choose(
    logits: Tensor, temperature: float, generators: Sequence[torch.Generator | None]
) -> Tensor:
    """Pick one token of each row: logits (N, V) to (N,)."""
    if temperature < LEAST_TEMPERATURE:
        return logits.argmax(dim=-1)
    probabilities = (logits / temperature).softmax(dim=-1)
    return torch.cat(
        [
            torch.multinomial(row, 1, generator=generator)
            for row, generator in zip(probabilities, generators, strict=True)
        ]
    )


def _texts(tokenizer: PreTrainedTokenizerFast, columns: Sequence[Tensor], end: int) -> list[str]:
    """Text of each row up to its end token."""
    rows = torch.stack(list(columns), dim=1).tolist()
    return [decode_text(tokenizer, row[: row.index(end)] if end in row else row) for row in rows]


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
