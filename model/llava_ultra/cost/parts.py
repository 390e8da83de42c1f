"""All parts of LLaVA-Ultra without values: on torch's meta device, whose tensors have shapes alone.

They are built as they are for a run, so that a configuration of any size is counted in seconds and
no memory.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from llava_ultra.config import LanguageConfig, ModelConfig
from llava_ultra.language.decoder import llama_config
from llava_ultra.language.gguf_file import gguf_path
from llava_ultra.language.lora import add_lora
from llava_ultra.model import LlavaUltra
from llava_ultra.parameters.precision_names import Precision
from llava_ultra.parameters.products import DTYPES
from llava_ultra.towers.clip import ClipTower
from llava_ultra.towers.lowered import lower_tower
from llava_ultra.towers.mix.adopt_vision import read_architecture
from llava_ultra.towers.mix.mix_config import FurtherTower
from llava_ultra.towers.mix.mix_tower import MixTower
from llava_ultra.towers.sam import SamTower

META = torch.device("meta")


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """All parts of LLaVA-Ultra, without values."""

    clip: ClipTower
    sam: SamTower
    model: LlavaUltra
    more: Mapping[str, MixTower] = field(default_factory=dict)
    """Further towers, by name."""

    @property
    def towers(self) -> dict[str, ClipTower | SamTower | MixTower]:
        """All of them, by name."""
        return {"clip": self.clip, "sam": self.sam, **self.more}


@dataclass(frozen=True, kw_only=True, slots=True)
class PartSize:
    """Parameters of one part."""

    name: str
    parameters: int
    trainable: int

    @property
    def frozen(self) -> int:
        """Parameters that keep their values."""
        return self.parameters - self.trainable


def build_parts(
    config: ModelConfig,
    *,
    precision: Precision = "float32",
    tower_precision: Precision = "float32",
) -> Parts:
    """Build every part on the meta device; only towers and decoder are frozen here.

    Args:
        config: the model.
        precision: of fusion and decoder (`llava_ultra.parameters.products`).
        tower_precision: of all towers.

    Raises:
        ValueError: the decoder that `language.source` names cannot be read, or the folder of a
            further tower.
    """
    decoder = _build_decoder(config.language)
    with META:
        vocab_size: int = decoder.get_input_embeddings().num_embeddings  # type: ignore[assignment]
        clip = ClipTower(config.clip, vocab_size=vocab_size, end_id=2, pad_id=0)
        sam = SamTower(config.sam, target_grid=config.clip.grid)
        more = {tower.name: _build_further(config, tower) for tower in config.towers}
        model = LlavaUltra(config, add_lora(decoder, config.lora), precision=precision)
    parts = Parts(clip=clip, sam=sam, model=model, more=more)
    for tower in parts.towers.values():
        lower_tower(tower.requires_grad_(False).eval(), DTYPES[tower_precision])
    return parts


def _build_further(config: ModelConfig, tower: FurtherTower) -> MixTower:
    """A further tower; one of transformers is built as its folder says."""
    told = tower.transformers
    return MixTower(
        tower,
        target_grid=config.grid_of(tower),
        architecture=read_architecture(Path(told.weights)) if told else None,
    )


def build_model(config: ModelConfig, language: Path) -> LlavaUltra:
    """Build what is trained over a language model on the meta device.

    Args:
        config: the model.
        language: the folder that training loads its decoder from.

    Raises:
        ValueError: the adapters do not fit the decoder, or its configuration cannot be read.
    """
    decoder = _build_decoder(config.language.model_copy(update={"source": str(language)}))
    with META:
        return LlavaUltra(config, add_lora(decoder, config.lora))


def _build_decoder(config: LanguageConfig) -> PreTrainedModel:
    """The decoder of `source`; where that is not here, one of the shape that is told of it."""
    settings: PreTrainedConfig
    if not config.source:
        settings = llama_config(config, vocab_size=config.vocab_size)
    elif config.shape and not is_here(config.source):
        values: dict[str, Any] = dict(config.shape)
        settings = AutoConfig.for_model(values.pop("model_type"), **values)
    else:
        try:
            gguf = gguf_path(config.source)
            settings = (
                AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name)
                if gguf
                else AutoConfig.from_pretrained(config.source)
            )
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"language model {config.source!r} cannot be read: {reason}") from None
    with META:
        decoder: PreTrainedModel = AutoModelForCausalLM.from_config(settings, dtype=torch.float32)  # type: ignore[no-untyped-call]
    return decoder


def is_here(source: str) -> bool:
    """Whether a decoder's configuration can be read without fetching anything."""
    try:
        gguf = gguf_path(source)
    except ValueError:  # a package that is missing
        return False
    if gguf is not None or Path(source).is_dir():
        return gguf is None or gguf.is_file()
    try:
        return isinstance(try_to_load_from_cache(source, "config.json"), str)
    except ValueError:  # no name that the hub has
        return False


def part_sizes(parts: Parts) -> list[PartSize]:
    """Count the parameters of each part, and those that `requires_grad` lets learn.

    CLIP's text side is trained along by `bootstrap` and not run after that.
    """
    visual = dict(parts.clip.clip.visual.named_parameters(prefix="clip.visual"))
    groups = {
        "CLIP tower": list(visual.values()),
        "CLIP text side": [p for n, p in parts.clip.named_parameters() if n not in visual],
        "SAM tower": list(parts.sam.parameters()),
        **{f"{name} tower": list(tower.parameters()) for name, tower in parts.more.items()},
        "fusion": list(parts.model.fusion.parameters()),
        "sampler": list(parts.model.sampler.parameters()),
        "language model": [p for name, p in _decoder_parameters(parts) if ".lora_" not in name],
        "LoRA": [p for name, p in _decoder_parameters(parts) if ".lora_" in name],
    }
    return [
        PartSize(
            name=name,
            parameters=sum(p.numel() for p in group),
            trainable=sum(p.numel() for p in group if p.requires_grad),
        )
        for name, group in groups.items()
    ]


def _decoder_parameters(parts: Parts) -> Iterator[tuple[str, nn.Parameter]]:
    return parts.model.language_model.named_parameters()
