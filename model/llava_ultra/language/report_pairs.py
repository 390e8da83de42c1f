"""From reports and class names to the tokens that recognition learns from and answers with."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from llava_ultra.language.chat import START, as_messages, encode_chat, encode_text, token_id
from llava_ultra.recognition.bank import ClassBank
from llava_ultra.recognition.pairs import (
    BankTokens,
    Encode,
    Pairs,
    bank_tokens,
    text_keys,
    text_tokens,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from llava_ultra.objectives.recognise import RecognitionObjective


def recognition_prompt(
    tokenizer: "PreTrainedTokenizerFast", settings: "RecognitionObjective"
) -> tuple[tuple[int, ...], int]:
    """Ids of what is said to the images, and how many of them stand in front of the images."""
    ids, images_at = encode_chat(tokenizer, as_messages(settings.instruction))
    return tuple(ids), images_at


def text_encoder(tokenizer: "PreTrainedTokenizerFast") -> Encode:
    """A text to its ids, the token that begins texts in front."""
    begin = tokenizer.bos_token_id
    first = token_id(tokenizer, START) if begin is None else int(begin)
    return lambda text: [first, *encode_text(tokenizer, text)]


def encode_bank(
    tokenizer: "PreTrainedTokenizerFast",
    bank: ClassBank,
    settings: "RecognitionObjective",
    context_length: int,
) -> BankTokens:
    """A bank's descriptions as tokens, cut where they do not fit the context."""
    most = context_length - settings.text_tokens
    return bank_tokens(bank, text_encoder(tokenizer), max_tokens=most)


def collate_pairs(
    tokenizer: "PreTrainedTokenizerFast",
    reports: Sequence[str],
    settings: "RecognitionObjective",
    *,
    context_length: int,
    classes: Sequence[Sequence[int]] = (),
    bank: BankTokens | None = None,
) -> Pairs:
    """What recognition learns of B studies.

    Args:
        tokenizer: the language model's.
        reports: a text of each study; cut at its end where it does not fit the context.
        settings: of the objective.
        context_length: most tokens that the decoder reads.
        classes: numbers of each study's classes in the bank; none where they are not known.
        bank: the classes' descriptions.

    Raises:
        ValueError: there is no study, or a character has no token.
    """
    prompt, images_at = recognition_prompt(tokenizer, settings)
    labels = None
    if bank is not None:
        labels = torch.zeros(len(reports), int(bank.class_of.max()) + 1, dtype=torch.int64)
        for row, numbers in enumerate(classes):
            labels[row, list(numbers)] = 1
    return Pairs(
        prompt=prompt,
        images_at=images_at,
        reports=text_tokens(
            reports, text_encoder(tokenizer), max_tokens=context_length - settings.text_tokens
        ),
        keys=text_keys(reports),
        labels=labels,
        bank=bank,
    )
