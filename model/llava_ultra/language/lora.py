"""Low-rank adapters on the decoder, through PEFT: what they may be put on, and what they spare."""

import re
from typing import Any

from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from llava_ultra.config import LoraSettings


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
