"""Log-probabilities of answer tokens: the decoder's last states, then logits where they are read.

Logits are the widest tensor of a training step, V numbers at a position, and of all positions only
those in front of an answer's tokens are looked at. There they are computed in chunks of at most
`MAX_LOGITS`, each anew in the backward pass, so that a vocabulary of 150,000 tokens does not decide
how much memory a step takes: its logits of a report of 100 tokens alone are 61 MB in float32, and
cross-entropy holds them three times.

A few architectures change their logits behind the output layer, by a factor or a cap. That is seen
by comparing the decoder's own logits of one token with those of the layer; for such a decoder the
logits of all answer tokens are computed by itself, in one piece.

Axes: R rows of T tokens, D width, A answer tokens, V vocabulary.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache

from llava_ultra.reading.attention import packed_attention
from llava_ultra.reading.credit import give_credit
from llava_ultra.reading.decoder_input import Prefixes, Sequence
from llava_ultra.reading.passage import Passage

MAX_LOGITS = 2**22
"""Logits of a chunk (17 MB in float32), or those of one token. Fewer are not computed twice."""

_CHANGED: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()
"""Decoders that were seen to change their logits."""


def answer_log_probs(language_model: nn.Module, sequence: Sequence, targets: Tensor) -> Tensor:
    """Log-probability (A,) float32 of each answer token.

    Args:
        language_model: a causal decoder of transformers, with adapters or without.
        sequence: what it reads, and from where it predicts.
        targets: (A,) int64, the tokens.
    """
    head: nn.Module = language_model.get_output_embeddings()  # type: ignore[operator]
    if language_model not in _CHANGED:
        with _head_sees(language_model, sequence.sources[:1]) as seen:
            logits = _decode(language_model, sequence)
        states = seen[0].flatten(0, 1).index_select(0, sequence.sources)
        if logits.is_meta or _is_plain(head, states, logits):
            return token_log_probs(head, states, targets, vocabulary=logits.shape[-1])
        _CHANGED.add(language_model)
    with _head_sees(language_model, sequence.sources):
        return _log_probs(_decode(language_model, sequence), targets)


def _decode(language_model: nn.Module, sequence: Sequence) -> Tensor:
    """Logits of the tokens that the output layer gets to see."""

    def logits(**others: Any) -> Tensor:  # noqa: ANN401 - of the decoder
        given = {**sequence.arguments, **others}
        if sequence.prefixes is None and sequence.embeds.is_meta:
            # without a cache, transformers looks into positions for packed rows, of which are none
            given["past_key_values"] = DynamicCache(config=language_model.config)  # type: ignore[arg-type]
        found: Tensor = language_model(
            inputs_embeds=sequence.embeds, use_cache=False, **given
        ).logits
        return found

    if sequence.prefixes is None:
        return logits()
    with packed_attention(language_model):
        passage = _read_prefixes(language_model, sequence.prefixes)
        return logits(passage=passage.on_branches())


def _read_prefixes(language_model: nn.Module, prefixes: Prefixes) -> Passage:
    """Read the prefixes once for all branches; the states of their last layer go nowhere."""
    passage = Passage(packing=prefixes.packing)
    if prefixes.packing.prefixes is None:  # every text reads its images by itself
        return passage
    layers: nn.Module = language_model.get_decoder()  # type: ignore[operator]
    layers(
        inputs_embeds=prefixes.embeds,
        position_ids=prefixes.packing.prefix_positions,
        use_cache=False,
        passage=passage,
    )
    if prefixes.picks is not None:
        give_credit(passage, prefixes.picks, images=prefixes.images, scale=prefixes.scale)
    return passage


@contextmanager
def _head_sees(language_model: nn.Module, places: Tensor) -> Iterator[list[Tensor]]:
    """Let the output layer see these places of R*T alone; what was in front of it goes to a list.

    What an architecture does to its logits afterwards is still done.
    """
    head: nn.Module = language_model.get_output_embeddings()  # type: ignore[operator]
    seen: list[Tensor] = []

    def narrow(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        seen.append(inputs[0])
        return (inputs[0].flatten(0, 1).index_select(0, places),)

    handle = head.register_forward_pre_hook(narrow)
    try:
        yield seen
    finally:
        handle.remove()


@torch.no_grad()
def _is_plain(head: nn.Module, states: Tensor, logits: Tensor) -> bool:
    """Whether a decoder's logits of the first state are what its output layer says."""
    return torch.equal(head(states.detach()[:1]), logits)


def token_log_probs(head: nn.Module, states: Tensor, targets: Tensor, *, vocabulary: int) -> Tensor:
    """Log-probability (A,) float32 of tokens behind states, in chunks, in one call of the layer.

    Args:
        head: the output layer, (..., D) to (..., V).
        states: (A, D).
        targets: (A,) int64.
        vocabulary: V.
    """
    size = max(1, MAX_LOGITS // vocabulary)
    if len(states) <= size:
        return _log_probs(head(states), targets)
    with _scores_in_chunks(head, targets, size):
        found: Tensor = head(states)
        return found


@contextmanager
def _scores_in_chunks(head: nn.Module, targets: Tensor, size: int) -> Iterator[None]:
    """Let a layer return log-probabilities (A,) in place of logits.

    All chunks are computed within one call: under ZeRO-3 a call gathers the layer's weights from
    all workers, forward and backward, and they have unlike numbers of answers.
    """
    whole: list[Tensor] = []

    def take(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        whole.append(inputs[0])
        return (inputs[0][:1],)

    def score(states: Tensor, targets: Tensor) -> Tensor:
        return _log_probs(head.forward(states), targets)

    def give(*_: object) -> Tensor:
        chunks = zip(torch.split(whole[0], size), torch.split(targets, size), strict=True)
        return torch.cat([checkpoint(score, *chunk, use_reentrant=False) for chunk in chunks])

    # the weights leave in a hook behind the call: this one comes before it
    handles = (
        head.register_forward_pre_hook(take),
        head.register_forward_hook(give, prepend=True),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _log_probs(logits: Tensor, targets: Tensor) -> Tensor:
    return -F.cross_entropy(logits.float(), targets, reduction="none")
