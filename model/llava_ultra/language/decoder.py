"""The decoder of the language side: the small Llama, or a published model that is adopted.

Any `AutoModelForCausalLM` serves as decoder. Where no downloadable weights are at hand, a small
Llama (`build_language_model`) and a tokenizer (`llava_ultra.language.tokenizer`) are trained from
the corpus by `llava_ultra.pretrain`. A decoder and its tokenizer go together (`Language`), and one
digest covers both.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from llava_ultra.config import LanguageConfig
from llava_ultra.digests.state_digest import state_digest
from llava_ultra.language.gguf_file import gguf_path, read_gguf_model, read_gguf_tokenizer
from llava_ultra.language.tokenizer import complete_tokenizer

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
    """Load tokenizer and decoder in float32; never from pickles.

    Args:
        source: a folder, a hub id, or a GGUF file (`llava_ultra.language.gguf_file`).

    Raises:
        ValueError: nothing usable lies there, or the tokenizer lacks what the chat format needs.
    """
    gguf = gguf_path(source)
    if gguf is None:
        _check_files(source)
    tokenizer = _load_tokenizer(source)
    with _loading(source):
        model = (
            read_gguf_model(gguf)
            if gguf
            else AutoModelForCausalLM.from_pretrained(
                source, dtype=torch.float32, use_safetensors=True
            )
        )
    model.eval()  # type: ignore[no-untyped-call]
    return Language(tokenizer=tokenizer, model=model)


def _load_tokenizer(source: str | Path) -> PreTrainedTokenizerFast:
    gguf = gguf_path(source)
    with _loading(source):
        tokenizer = read_gguf_tokenizer(gguf) if gguf else AutoTokenizer.from_pretrained(source)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ValueError(
            f"language model {str(source)!r} has a {type(tokenizer).__name__}; "
            "convert it to a fast tokenizer (tokenizer.json)"
        )
    return tokenizer


def _check_files(source: str | Path) -> None:
    """Refuse a folder without what a language model is read from; transformers asks its hub."""
    folder = Path(source)
    if not folder.is_dir():
        if folder.is_absolute() or len(folder.parts) > 2:  # no hub has such a name
            raise ValueError(f"language model {str(source)!r} does not exist; name a folder")
        return
    wanted = ("config.json", "tokenizer.json", "*.safetensors")
    if lacking := [pattern for pattern in wanted if not any(folder.glob(pattern))]:
        raise ValueError(
            f"language model {str(source)!r} lacks {' and '.join(lacking)}; name the folder of a "
            f"published model with {', '.join(wanted)}"
        )


@contextmanager
def _loading(source: str | Path) -> Iterator[None]:
    """One line for whatever transformers says where it cannot load."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"language model {str(source)!r} cannot be loaded: {reason}") from None


class _AttendingAsNow(AbstractContextManager[None]):
    """A decoder attends as it did when this was made; to be entered any number of times."""

    def __init__(self, config: Any) -> None:  # noqa: ANN401 - a transformers configuration
        self._config = config
        self._now = config._attn_implementation
        self._before: list[str] = []

    def __enter__(self) -> None:
        self._before.append(self._config._attn_implementation)
        self._config._attn_implementation = self._now

    def __exit__(self, *_: object) -> None:
        self._config._attn_implementation = self._before.pop()


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Keep what goes into each layer while it learns, and compute what is inside anew backward.

    Attention is then the one of the forward pass, which `reading.attention` exchanges for a while.

    Raises:
        ValueError: the architecture cannot.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Around a layer's forward pass, and around each repetition of it."""
        return nullcontext(), _AttendingAsNow(model.config)

    try:
        model.activation_checkpointing_enable({"use_reentrant": False, "context_fn": contexts})
    except ValueError:
        raise ValueError(
            f"train.activation_checkpointing: a {type(model).__name__} has none; turn it off, or "
            "lower train.micro_studies"
        ) from None


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


def check_shape(model: PreTrainedModel, shape: Mapping[str, str | bool | int | float]) -> None:
    """Refuse a decoder that is not the one that a configuration tells of.

    Args:
        model: what was loaded.
        shape: keys and values of its `config.json` (`LanguageConfig.shape`).

    Raises:
        ValueError: a value differs.
    """
    config = model.config
    found = {key: getattr(config, key, None) for key in shape}
    if wrong := [key for key, value in shape.items() if found[key] != value]:
        told = ", ".join(f"{key} {found[key]} and not {shape[key]}" for key in wrong)
        raise ValueError(
            f"language.source is another model than language.shape says: {told}; give the source "
            "of the model that is meant, or correct or leave out the shape"
        )


def adopt_language(
    source: str | Path, shape: Mapping[str, str | bool | int | float] | None = None
) -> Language:
    """Load a language model of others and give it what the chat format needs.

    What its tokenizer lacks is added (`complete_tokenizer`). The embeddings of those tokens are
    random, as the model starts its own, from a fixed seed.

    Args:
        source: as for `load_language`.
        shape: what it must be, see `check_shape`.

    Raises:
        ValueError: as `load_language` does, or it is another model.
    """
    language = load_language(source)
    tokenizer, model = language.tokenizer, language.model
    check_shape(model, shape or {})
    complete_tokenizer(tokenizer)
    embeddings: Any = model.get_input_embeddings()
    if len(tokenizer) > embeddings.num_embeddings:  # many models keep spare rows
        torch.manual_seed(0)
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    return language


def adopt_tokenizer(source: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer of `adopt_language`, without the weights.

    Raises:
        ValueError: as `load_language` does.
    """
    tokenizer = _load_tokenizer(source)
    complete_tokenizer(tokenizer)
    return tokenizer
