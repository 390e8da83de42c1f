"""The byte-level tokenizer that a road trains from its own texts, and the placeholders of reports.

Byte level means that no character is ever unknown. A Chinese character is never merged with
another, so that new sentences still split into familiar parts.
"""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from llava_ultra.language.chat import END, PAD, ROLE_TOKENS, START

PLACEHOLDERS = ("_2DS_", "_3DS_", "_SCM_", "_SMM_", "_Loc_", "_LocR_", "_r_")
"""Stand-ins for measured values in the KMVE reports; each is one token."""

_CHINESE = Regex(r"[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]")
"""Characters that always stand alone: CJK ideographs and full-width punctuation."""


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer with the chat roles and placeholders as whole tokens."""
    special = [PAD, START, END, *ROLE_TOKENS.values()]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_CHINESE, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(PLACEHOLDERS),
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens(list(PLACEHOLDERS))
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=START,
        eos_token=END,
        extra_special_tokens=list(ROLE_TOKENS.values()),
        clean_up_tokenization_spaces=False,
    )


def complete_tokenizer(tokenizer: PreTrainedTokenizerFast) -> None:
    """Add in place what an adopted tokenizer lacks of the chat format, and the placeholders.

    One with a chat template keeps its own tokens and gets at most tokens for start, end and
    padding; one without gets the chat tokens of `llava_ultra.language.chat`.
    """
    if tokenizer.chat_template:
        for name, token in {"bos_token": START, "eos_token": END}.items():
            if getattr(tokenizer, name) is None:
                tokenizer.add_special_tokens({name: token})
        if tokenizer.pad_token_id in (
            None,
            tokenizer.eos_token_id,
        ):  # padding must not end a caption
            tokenizer.add_special_tokens({"pad_token": PAD})
    else:
        tokenizer.add_special_tokens({"pad_token": PAD, "bos_token": START, "eos_token": END})
        tokenizer.add_special_tokens(
            {"extra_special_tokens": list(ROLE_TOKENS.values())}, replace_extra_special_tokens=False
        )
    tokenizer.add_tokens(list(PLACEHOLDERS))
