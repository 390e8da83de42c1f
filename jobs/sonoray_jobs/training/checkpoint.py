"""Training checkpoints that do not depend on the number of workers.

DeepSpeed's own ZeRO checkpoints load only on as many ranks as wrote them, and at the same stage of
ZeRO. What is trained here is small (connector, LoRA), so every rank helps to gather whole tensors,
and rank 0 writes them:

```
weights.safetensors      every trainable tensor, float32, and what objectives keep
optimizer.safetensors    Adam's two moments of each, `<name>|exp_avg` and `<name>|exp_avg_sq`
position.json            how far it is, and the digests of all parts (`saving.position`)
```
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from llava_ultra.model import LlavaUltra, kept_buffers, trainable_parameters
from sonoray.config.load import validate_config
from sonoray.errors import CheckpointError
from sonoray_jobs.training.saving.position import POSITION, Position
from sonoray_jobs.training.saving.saver import OPTIMIZER, WEIGHTS
from sonoray_jobs.training.steps.engine import (
    give_state,
    link_moments,
    optimizer_places,
    whole_state,
)

_MOMENTS = ("exp_avg", "exp_avg_sq")


def gather_state(engine: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:  # noqa: ANN401
    """Gather trainable weights and Adam moments; collective: every rank must call it.

    Args:
        engine: DeepSpeed's, around the model.

    Returns:
        Weights by name and moments by `<name>|<moment>`, whole tensors on the CPU.
    """
    kept = kept_buffers(engine.module).items()
    weights, moments = {name: each.detach().cpu().clone() for name, each in kept}, {}
    for name, parameter in trainable_parameters(engine.module).items():
        weights[name] = whole_state(engine, parameter)
        for moment in _MOMENTS:
            moments[f"{name}|{moment}"] = whole_state(engine, parameter, moment)
    return weights, moments


def read_position(folder: Path) -> Position:
    """Read how far a checkpoint is.

    Raises:
        CheckpointError: the checkpoint is incomplete.
    """
    path = folder / POSITION
    if not path.is_file():
        raise CheckpointError(
            f"checkpoint {str(folder)!r} is incomplete (no position.json); remove it and resume"
        )
    return validate_config(Position, json.loads(path.read_text(encoding="utf-8")), str(path))


def check_frozen(folder: Path, found: Mapping[str, str]) -> Position:
    """Check that a checkpoint was trained over these frozen parts, and return how far it is.

    Args:
        folder: the checkpoint.
        found: digests of the language model and the towers that are here.

    Raises:
        CheckpointError: it was trained over other parts, or is incomplete.
    """
    position = read_position(folder)
    for part, digest in position.digests.items():
        if found.get(part) != digest:
            raise CheckpointError(
                f"checkpoint {str(folder)!r} was trained over {part} {digest[:16]}, here it is "
                f"{found.get(part, 'missing')[:16]}; give back that {part} model, or train again"
            )
    return position


def load_weights(model: LlavaUltra, folder: Path) -> None:
    """Load a checkpoint's weights into a model; what it does not hold stays as it is.

    Raises:
        CheckpointError: the model lacks a tensor or has it in another shape.
    """
    named = {**dict(model.named_parameters()), **kept_buffers(model)}
    for name, tensor in load_file(folder / WEIGHTS).items():
        if name not in named or named[name].shape != tensor.shape:
            raise CheckpointError(
                f"checkpoint {str(folder)!r} has a tensor {name!r} of shape {tuple(tensor.shape)} "
                "that this model lacks; resume with the config that made it"
            )
        named[name].detach().copy_(tensor)


def check_moments(model: LlavaUltra, folder: Path) -> None:
    """Refuse a checkpoint without the optimiser's state of something that learns.

    Raises:
        CheckpointError: it lacks some.
    """
    with safe_open(folder / OPTIMIZER, framework="pt") as file:
        known = set(file.keys())
    for name in trainable_parameters(model):
        if f"{name}|{_MOMENTS[0]}" not in known:
            raise CheckpointError(
                f"checkpoint {str(folder)!r} has no state of the optimiser for {name!r}, which did "
                "not learn when it was made; resume with the config that made it"
            )


def place_moments(engine: Any, steps: int) -> None:  # noqa: ANN401 - DeepSpeed's
    """Make Adam's state before there was a step, and link the parameters to it.

    AdamW would make it in its first step, a group at a time. DeepSpeed 0.19 links all groups after
    the first group's step, when the others have no state yet, and never again.

    Args:
        engine: DeepSpeed's; its AdamW is over `decay_groups` of its model.
        steps: optimiser steps that were done before.
    """
    optimizer = engine.basic_optimizer
    for place in optimizer_places(engine):
        optimizer.state[place] = {
            "step": torch.tensor(float(steps)),
            **{moment: torch.zeros_like(place) for moment in _MOMENTS},
        }
    link_moments(engine)


def restore_moments(engine: Any, folder: Path) -> None:  # noqa: ANN401 - DeepSpeed's
    """Give this rank its part of a checkpoint's Adam moments, whose place was made before."""
    moments = load_file(folder / OPTIMIZER)
    for name, parameter in trainable_parameters(engine.module).items():
        for moment in _MOMENTS:
            give_state(engine, parameter, moment, moments[f"{name}|{moment}"])
