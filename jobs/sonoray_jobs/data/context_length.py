"""Refuse texts that cannot fit the language model's context before anything is computed.

Met by a worker, one such text would end a training after hours, at a random step and without the
study's name. They are refused and not cut: half a report teaches half a report. A tokenizer alone,
without torch, counts 10,000 different reports a second, and each different text is counted once.
The chat form's own tokens are the same around every question: 5 of ours, and some ten to a hundred
of an adopted model's chat template.
"""

import copy
import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llava_ultra.config import ModelConfig, images_kept
from llava_ultra.language.chat import as_messages, encode_answer, encode_chat
from sonoray.errors import DataError
from sonoray.study.contract import Study, Turn
from sonoray.study.prompt import dialogue

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_REMEMBERED = 65_536
"""Texts whose length is kept: questions and closed answers return in every study."""


def taught(turn: Turn) -> Sequence[str]:
    """What training puts behind a turn's question."""
    return (turn.answer,)


def judged(turn: Turn) -> Sequence[str]:
    """What evaluation puts behind it: nothing at first, then each option."""
    return ("", *turn.options)


def read_tokenizer(language: Path) -> "PreTrainedTokenizerFast":
    """The tokenizer of a bootstrapped language model's folder."""
    from transformers import PreTrainedTokenizerFast

    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(language)
    return tokenizer


def check_lengths(
    tokenizer: "PreTrainedTokenizerFast",
    studies: Iterable[Study],
    model: ModelConfig,
    answers: Callable[[Turn], Sequence[str]] = taught,
    told: Callable[[Sequence[Turn], int], Sequence[str]] = dialogue,
) -> None:
    """Refuse studies of which a turn, with the images that are kept, does not fit the context.

    Args:
        tokenizer: the language model's; left as it is.
        studies: those that will be read.
        model: its context, tokens per image and sampling.
        answers: what is put behind a turn's question.
        told: the texts that end in a turn's question, of a study's turns and the turn's number.

    Raises:
        DataError: with the number of such studies, and the name and the length of the longest.
    """
    speaker, counter = copy.deepcopy(tokenizer), copy.deepcopy(tokenizer)
    end = len(encode_answer(speaker, ""))

    @functools.cache
    def of_form(num_texts: int) -> int:
        return len(encode_chat(speaker, as_messages(("",) * num_texts))[0]) + end

    backend = counter.backend_tokenizer
    backend.no_truncation()
    backend.encode_special_tokens = True  # written out in a text, they are plain characters

    @functools.lru_cache(maxsize=_REMEMBERED)
    def num_tokens(text: str) -> int:
        return len(backend.encode(text, add_special_tokens=False).ids)

    limit = model.language.context_length
    too_long: list[tuple[int, str]] = []
    for study in studies:
        kept = images_kept(model.sampling, len(study.images))
        before = [told(study.turns, number) for number in range(len(study.turns))]
        longest = max(
            of_form(len(texts)) + sum(map(num_tokens, (*texts, answer)))
            for turn, texts in zip(study.turns, before, strict=True)
            for answer in answers(turn)
        )
        length = kept * model.num_tokens + longest
        if length >= limit:  # one token is left free, as `LlavaUltra.read` wants it
            too_long.append((length, study.study_id))
    if too_long:
        length, study_id = max(too_long)
        raise DataError(
            f"studies that do not fit the context of {limit} tokens with their images: "
            f"{len(too_long)}; the longest, {study_id!r}, has {length}; shorten their texts, keep "
            "fewer images or raise model.language.context_length"
        )
