"""The language side: tokenizer, chat format, the small Llama, LoRA.

Any `AutoModelForCausalLM` serves as decoder. Where no downloadable weights are at hand, a small
Llama and a byte-level BPE tokenizer are trained from the corpus (`llava_ultra.pretrain`). Byte
level means that no character is ever unknown; a Chinese character is never merged with another, so
that new sentences still split into familiar parts.

An adopted model that has a chat template speaks in it, and keeps its own tokens; every other one
gets ours. Either way only the form is read with special tokens: what a user writes is plain text.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from peft import LoraConfig, get_peft_model
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.pytorch_utils import Conv1D

from llava_ultra.config import LanguageConfig, LoraSettings
from llava_ultra.digest import state_digest

PAD, START, END = "<pad>", "<s>", "</s>"
ROLE_TOKENS = {"system": "<system>", "user": "<user>", "assistant": "<assistant>"}
PLACEHOLDERS = ("_2DS_", "_3DS_", "_SCM_", "_SMM_", "_Loc_", "_LocR_", "_r_")
"""Stand-ins for measured values in the KMVE reports; each is one token."""

IGNORED = -100
"""Label of a token that takes no part in the loss (PyTorch's convention)."""

_CHINESE = Regex(r"[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]")
"""Characters that always stand alone: CJK ideographs and full-width punctuation."""

_CONFIG_OF_FILES = frozenset({"_name_or_path", "architectures", "dtype", "transformers_version"})
"""Entries of a decoder's config that tell where it lies and what wrote it, not what it computes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Language:
    """A tokenizer and its decoder."""

    tokenizer: PreTrainedTokenizerFast
    model: PreTrainedModel

    @property
    def digest(self) -> str:
        """Sha256 (hex) over all that decides an answer: weights, decoder's config, tokenizer."""
        config = json.loads(self.model.config.to_json_string())
        for key in _CONFIG_OF_FILES:
            config.pop(key, None)
        tokenizer = json.loads(self.tokenizer.backend_tokenizer.to_str())
        # How the last call padded and cut is kept there too.
        tokenizer.update(padding=None, truncation=None)
        named = ("pad_token_id", "bos_token_id", "eos_token_id", "unk_token_id")
        parts = {
            "weights": state_digest(self.model.state_dict()),
            "config": config,
            "tokenizer": tokenizer,
            "special_ids": {
                **{name: getattr(self.tokenizer, name) for name in named},
                "all": sorted(self.tokenizer.all_special_ids),
            },
        }
        if self.tokenizer.chat_template:
            parts["chat_template"] = self.tokenizer.chat_template
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


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


def build_language_model(
    config: LanguageConfig, tokenizer: PreTrainedTokenizerFast
) -> PreTrainedModel:
    """Build the small Llama with random weights."""
    return LlamaForCausalLM(
        llama_config(
            config,
            vocab_size=len(tokenizer),
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def llama_config(config: LanguageConfig, *, vocab_size: int, **token_ids: Any) -> LlamaConfig:  # noqa: ANN401
    """The small Llama's shape; `token_ids` are those that transformers' configuration names."""
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_heads,
        max_position_embeddings=config.context_length,
        tie_word_embeddings=config.tie_embeddings,
        dtype=torch.float32,
        **token_ids,
    )


def save_language(language: Language, folder: Path) -> None:
    """Write tokenizer and decoder in the transformers layout, weights as safetensors."""
    language.tokenizer.save_pretrained(folder)
    language.model.save_pretrained(folder)


def load_language(source: str | Path) -> Language:
    """Load tokenizer and decoder from a folder or a hub id, in float32; never from pickles.

    Raises:
        ValueError: nothing usable lies there, or the tokenizer lacks what the chat format needs.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype=torch.float32, use_safetensors=True
        )
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"language model {str(source)!r} cannot be loaded: {reason}") from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ValueError(
            f"language model {str(source)!r} has a {type(tokenizer).__name__}; "
            "convert it to a fast tokenizer (tokenizer.json)"
        )
    model.eval()  # type: ignore[no-untyped-call]
    return Language(tokenizer=tokenizer, model=model)


def check_context(language: Language, context_length: int) -> None:
    """Refuse a context that a language model has no positions for.

    Raises:
        ValueError: `context_length` is more than its `max_position_embeddings`.
    """
    positions = getattr(language.model.config, "max_position_embeddings", None)
    if positions is not None and context_length > positions:
        raise ValueError(
            f"language.context_length {context_length} is more than the {positions} positions of "
            "this language model; lower it"
        )


def adopt_language(source: str | Path) -> Language:
    """Load a language model of others and give it what the chat format needs.

    One with a chat template keeps its own tokens. What its tokenizer lacks is added: placeholders,
    and chat tokens where it has no template. Their embeddings are random, as the model starts its
    own, from a fixed seed.

    Raises:
        ValueError: as `load_language` does.
    """
    language = load_language(source)
    tokenizer, model = language.tokenizer, language.model
    if tokenizer.chat_template:
        for name, token in {"bos_token": START, "eos_token": END}.items():
            if getattr(tokenizer, name) is None:
                tokenizer.add_special_tokens({name: token})
        if tokenizer.pad_token_id == tokenizer.eos_token_id:  # padding must not end a caption
            tokenizer.add_special_tokens({"pad_token": PAD})
    else:
        tokenizer.add_special_tokens({"pad_token": PAD, "bos_token": START, "eos_token": END})
        tokenizer.add_special_tokens(
            {"extra_special_tokens": list(ROLE_TOKENS.values())}, replace_extra_special_tokens=False
        )
    tokenizer.add_tokens(list(PLACEHOLDERS))
    embeddings: Any = model.get_input_embeddings()
    if len(tokenizer) > embeddings.num_embeddings:  # many models keep spare rows
        torch.manual_seed(0)
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    return language


def add_lora(model: PreTrainedModel, settings: LoraSettings) -> nn.Module:
    """Wrap the decoder with trainable low-rank adapters; everything else is frozen.

    Only the decoder is wrapped: towers and connector are other modules, so no adapter can land on
    their equally named projections.

    Raises:
        ValueError: a name of `target_modules` matches nothing, or what cannot have an adapter.
    """
    targets = list(settings.target_modules)
    paths = [f".{path}" for path, _ in model.named_modules()]  # peft matches their ends
    unmatched = [t for t in targets if not any(path.endswith(f".{t}") for path in paths)]
    if unmatched:
        raise ValueError(f"LoRA target_modules {unmatched} match nothing; {_linear_layers(model)}")
    try:
        adapted: nn.Module = get_peft_model(
            model,
            LoraConfig(
                r=settings.rank,
                lora_alpha=settings.alpha,
                lora_dropout=settings.dropout,
                use_rslora=settings.variant == "rslora",
                use_dora=settings.variant == "dora",
                target_modules=targets,
                exclude_modules=list(settings.exclude_modules) or None,
                task_type="CAUSAL_LM",
            ),
        )
        return adapted
    except ValueError as error:
        raise ValueError(
            f"LoRA target_modules {targets} without {list(settings.exclude_modules)} cannot be "
            f"adapted ({str(error).splitlines()[0]}); {_linear_layers(model)}"
        ) from None


def _linear_layers(model: nn.Module) -> str:
    layers = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }
    return f"the linear layers of this language model are {', '.join(sorted(layers))}"


def encode_text(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Token ids of plain text, without special tokens.

    Special tokens written out in the text (`<assistant>`) are read as plain characters, so that a
    user cannot forge a turn.

    Raises:
        ValueError: the tokenizer knows some character of the text only as unknown.
    """
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids:
        unknown = sorted(
            {
                c
                for c in text
                if tokenizer.unk_token_id in tokenizer.encode(c, add_special_tokens=False)
            }
        )
        raise ValueError(
            f"the tokenizer has no token for {''.join(unknown)[:20]!r}; "
            "use a tokenizer with a byte fallback or train one on these texts"
        )
    return ids


def encode_prompt(
    tokenizer: PreTrainedTokenizerFast, messages: Sequence[dict[str, str]]
) -> list[int]:
    """Token ids of a conversation up to the point where the assistant speaks; see `encode_chat`."""
    return encode_chat(tokenizer, messages)[0]


def encode_chat(
    tokenizer: PreTrainedTokenizerFast, messages: Sequence[dict[str, str]]
) -> tuple[list[int], int]:
    """Token ids of a conversation up to where the assistant speaks, and the images' place in it.

    The form is the tokenizer's own chat template, the images in front of the first question's text;
    where it has none, `<s> [images] <user> question </s> <assistant> answer </s> ... <assistant>`.
    All images of a study stand together, best first; the model puts their tokens there.

    Returns:
        The ids, and how many of them stand in front of the images.

    Raises:
        ValueError: a role is unknown, the last message is not the user's, or the chat template does
            not take the conversation.
    """
    if not messages or messages[-1]["role"] != "user":
        raise ValueError("the last message must be the user's question")
    for message in messages:
        if message["role"] not in ROLE_TOKENS:
            raise ValueError(
                f"role {message['role']!r} is unknown; use one of {', '.join(ROLE_TOKENS)}"
            )
    if tokenizer.chat_template:
        return _encode_templated(tokenizer, messages)
    ids: list[int] = [token_id(tokenizer, START)]
    for message in messages:
        ids.append(token_id(tokenizer, ROLE_TOKENS[message["role"]]))
        ids.extend(encode_text(tokenizer, message["content"]))
        ids.append(token_id(tokenizer, END))
    return [*ids, token_id(tokenizer, ROLE_TOKENS["assistant"])], 1


def _encode_templated(
    tokenizer: PreTrainedTokenizerFast, messages: Sequence[dict[str, str]]
) -> tuple[list[int], int]:
    """Encode the template around the messages with special tokens, the messages without."""
    rest = _render(tokenizer, [message["role"] for message in messages], open_answer=True)
    ids: list[int] = []
    images_at = -1
    for number, message in enumerate(messages):
        before, found, rest = rest.partition(_mark(number))
        if not found:
            raise ValueError(
                f"the language model's chat template leaves out the {message['role']} message "
                f"{number}; send the conversation without it"
            )
        ids.extend(tokenizer.encode(before, add_special_tokens=False))
        if images_at < 0 and message["role"] == "user":
            images_at = len(ids)
        ids.extend(encode_text(tokenizer, message["content"]))
    return [*ids, *tokenizer.encode(rest, add_special_tokens=False)], images_at


def _mark(number: int) -> str:
    """What stands for a message in a rendered template: private use characters."""
    return f"\ue000{number}\ue001"


def _render(tokenizer: PreTrainedTokenizerFast, roles: Sequence[str], *, open_answer: bool) -> str:
    """The chat template around messages of these roles, a mark in place of each."""
    marked = [{"role": role, "content": _mark(number)} for number, role in enumerate(roles)]
    try:
        text = tokenizer.apply_chat_template(
            marked, tokenize=False, add_generation_prompt=open_answer
        )
    except TemplateError as error:
        raise ValueError(
            f"the language model's chat template does not take {', '.join(roles)} messages "
            f"({str(error).splitlines()[0]}); change their order or leave out the system message"
        ) from None
    assert isinstance(text, str)
    return text


def end_id(tokenizer: PreTrainedTokenizerFast) -> int:
    """Id of the token that ends an answer: what the chat template closes it with, else `</s>`.

    Raises:
        ValueError: the tokenizer has none.
    """
    if tokenizer.chat_template:
        closing = _render(tokenizer, ["user", "assistant"], open_answer=False)
        ids = tokenizer.encode(closing.partition(_mark(1))[2].strip(), add_special_tokens=False)
        added = tokenizer.added_tokens_decoder
        if ids and ids[0] in added and added[ids[0]].special:
            return int(ids[0])
        return token_id(tokenizer, str(tokenizer.eos_token))
    return token_id(tokenizer, END)


def encode_answer(tokenizer: PreTrainedTokenizerFast, answer: str) -> list[int]:
    """Token ids of an answer with its end token."""
    return [*encode_text(tokenizer, answer), end_id(tokenizer)]


def decode_text(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]) -> str:
    """Text of token ids; an incomplete character at the end shows as U+FFFD."""
    text = tokenizer.decode(list(ids))
    assert isinstance(text, str)
    return text


def token_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    """Id of a chat token.

    Raises:
        ValueError: the tokenizer lacks it.
    """
    index: Any = tokenizer.convert_tokens_to_ids(token)
    if index is None or index == tokenizer.unk_token_id:
        raise ValueError(f"the tokenizer lacks the chat token {token!r}; add it before training")
    return int(index)
