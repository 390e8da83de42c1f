"""The language side: tokenizer, the small Llama, adopted decoders, LoRA.

Any `AutoModelForCausalLM` serves as decoder. Where no downloadable weights are at hand, a small
Llama and a byte-level BPE tokenizer are trained from the corpus (`llava_ultra.pretrain`). Byte
level means that no character is ever unknown; a Chinese character is never merged with another, so
that new sentences still split into familiar parts.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
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
from llava_ultra.language.chat import END, PAD, ROLE_TOKENS, START
from llava_ultra.parameters.digest import state_digest

PLACEHOLDERS = ("_2DS_", "_3DS_", "_SCM_", "_SMM_", "_Loc_", "_LocR_", "_r_")
"""Stand-ins for measured values in the KMVE reports; each is one token."""

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
        ValueError: a name of `target_modules` matches nothing, or what is no linear layer with
            weights of its own; or one of `exclude_modules` spares nothing.
    """
    targets, excluded = list(settings.target_modules), list(settings.exclude_modules)
    paths = [path for path, _ in model.named_modules()]
    found = {t: [path for path in paths if f".{path}".endswith(f".{t}")] for t in targets}
    if unmatched := [t for t in targets if not found[t]]:
        raise ValueError(f"LoRA target_modules {unmatched} match nothing; {_name_layers(model)}")
    matched = [path for those in found.values() for path in those]
    if others := sorted(set(matched) - _linear_layers(model).keys()):
        # PEFT takes embeddings and tied heads too, and merging one of a tied pair changes both
        raise ValueError(
            f"LoRA target_modules {targets} match {others[0]!r}, which is no linear layer with "
            f"weights of its own; {_name_layers(model)}"
        )
    if idle := [e for e in excluded if not any(re.fullmatch(_below(e), path) for path in matched)]:
        raise ValueError(
            f"LoRA exclude_modules {idle} spare no layer that target_modules {targets} match; name "
            f"a module by the last parts of its path, or leave them out; {_name_layers(model)}"
        )
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
                exclude_modules="|".join(map(_below, excluded)) or None,
                task_type="CAUSAL_LM",
            ),
        )
        return adapted
    except ValueError as error:
        raise ValueError(
            f"LoRA target_modules {targets} without {excluded} cannot be "
            f"adapted ({str(error).splitlines()[0]}); {_name_layers(model)}"
        ) from None


def _below(name: str) -> str:
    """Pattern of the paths of a module of that name and of all that is below it."""
    return rf"(.*\.)?{re.escape(name)}(\..*)?"


def _linear_layers(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Linear layers by path, without an output head that is the embedding read backwards."""
    embedding: Any = model.get_input_embeddings()
    return {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module.weight is not embedding.weight
    }


def _name_layers(model: PreTrainedModel) -> str:
    names = {path.rpartition(".")[2] for path in _linear_layers(model)}
    return f"the linear layers of this language model are {', '.join(sorted(names))}"
