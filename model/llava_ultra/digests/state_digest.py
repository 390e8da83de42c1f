"""Digests of weights: the gate that keeps a silently re-initialised tower out of a model."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def state_digest(state: Mapping[str, Tensor]) -> str:
    """Sha256 (hex) over names, dtypes, shapes and bytes of all tensors, in order of name."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().clone(memory_format=torch.contiguous_format)
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def check_digest(what: str, *, found: str, expected: str) -> None:
    """Refuse a part that is not the expected one.

    Raises:
        ValueError: the digests differ; the message holds both.
    """
    if found != expected:
        raise ValueError(
            f"{what}: digest {found[:16]} does not match the expected {expected[:16]}; "
            "it was changed or damaged: restore it or export the model again"
        )
