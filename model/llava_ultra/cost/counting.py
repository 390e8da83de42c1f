"""Counters that torch lacks: bytes alive at once, and attention taken as the one operator it is.

Chosen against torch's `MemTracker`, which does the same as `LiveBytes` but stops at frozen
parameters (torch 2.15). FLOPs are counted by torch's own `FlopCounterMode`.
"""

import weakref
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The bytes of storage that operators made inside the context, alive at once.

    Views share a storage and are counted once. It works where storages are empty, on meta tensors.
    """

    def __init__(self, given: nn.Module) -> None:
        """Leave out the weights of `given`, which were there before."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        held = [*given.parameters(), *given.buffers()]
        self._known = {tensor.untyped_storage()._cdata for tensor in held}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401 - torch's signature
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._add(value.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


class FusedAttention(AbstractContextManager[None]):
    """Take attention as one operator, which meta tensors would otherwise split into its products.

    The operator is that of the CPU; its shapes and what it keeps are those of flash attention on a
    GPU: queries, keys, values, output and the logarithms of the sums.

    torch's function is exchanged while the block runs. A `TorchFunctionMode` would be off inside
    `torch.autograd.grad`, where checkpoints compute attention anew and then find other tensors.
    """

    def __enter__(self) -> None:
        self._plain = F.scaled_dot_product_attention
        F.scaled_dot_product_attention = _attend

    def __exit__(self, *_: object) -> None:
        F.scaled_dot_product_attention = self._plain


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = (each.repeat_interleave(groups, dim=-3) for each in (key, value))
    attended: Tensor = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
    )[0]
    return attended
