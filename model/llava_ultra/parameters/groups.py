"""Which parameters weight decay pulls towards zero: the groups of every AdamW here.

Decay belongs to what multiplies: the weights of linear layers, convolutions and embeddings, and
LoRA's two factors. Norms, biases, the fusion's alpha and the shares of merged layers have values
of their own for which zero is no natural centre: decay would pull a learned alpha back to one half.
All of them are vectors or numbers, so the number of dimensions tells them apart, as in open_clip's
own training.
"""

from typing import Any

import torch
from torch import nn


def whole_shape(parameter: nn.Parameter) -> torch.Size:
    """Shape of a parameter, also where ZeRO-3 has left a worker but a part of it."""
    shape: torch.Size = getattr(parameter, "ds_shape", parameter.shape)
    return shape


def decay_groups(module: nn.Module, *, weight_decay: float) -> list[dict[str, Any]]:
    """Groups for AdamW of all parameters that learn: what decays, then what does not.

    A group without parameters is left out. The order inside a group is the module's own, so that
    two calls agree.
    """
    learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in learned if len(whole_shape(parameter)) >= 2]
    vectors = [parameter for parameter in learned if len(whole_shape(parameter)) < 2]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
