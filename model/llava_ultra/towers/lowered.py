"""A frozen tower whose products are computed in another format, bfloat16.

What is rounded is what nearly all of its time goes to: attention and MLPs, with their weights. The
stream between them stays float32, and so do norms, position embeddings, convolutions and the
standardiser: every block reads a rounded copy of the stream and adds what it found to the stream
itself, so that roundings do not pile up with depth. A block is the largest part of a tower that
holds products and neither norm nor convolution; the rule fits open_clip's transformers, timm's and
segment_anything's alike.

The convolutions (patch embedding, SAM's neck) are 2 % of a SAM ViT-B's products and would be half
of the error, since nothing is added to what they hand out: of the tiny SAM, trained on BUS-BRA,
features are off by 0.0020 of their deviation so, and by 0.0049 where its convolutions are rounded
too. Rounding the weights alone is half of the rest (`bench/half_precision.py`).

Its weights in memory are no longer those of its fingerprint: that is taken before.
"""

from typing import Any

import torch
from torch import Tensor, nn

_PRODUCTS = (nn.Linear, nn.MultiheadAttention)


def lower_tower(tower: nn.Module, dtype: torch.dtype) -> None:
    """Compute a tower's products in `dtype`, in place; float32 changes nothing.

    Args:
        tower: in evaluation mode; the road's forward pass is meant, so that what is not run (a
            text side) is lowered along.
        dtype: torch.float32 or torch.bfloat16.
    """
    if dtype == torch.float32:
        return
    for block in _blocks(tower):
        block.to(dtype)
        block.register_forward_pre_hook(_Rounding(dtype), with_kwargs=True)
        block.register_forward_hook(_to_stream)


def _blocks(module: nn.Module) -> list[nn.Module]:
    """The parts of a module that are rounded."""
    inner = list(module.modules())
    if not any(isinstance(each, _PRODUCTS) for each in inner):
        return []
    if isinstance(module, _PRODUCTS) or not any(_is_kept(each) for each in inner):
        return [module]
    return [block for child in module.children() for block in _blocks(child)]


def _is_kept(module: nn.Module) -> bool:
    """Whether it stays float32: a convolution or a norm, which every library calls so."""
    return isinstance(module, nn.modules.conv._ConvNd) or "Norm" in type(module).__name__


class _Rounding:
    """Rounds what a block is given; the same tensor given twice stays one."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype

    def __call__(
        self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        rounded: dict[int, Tensor] = {}

        def to_dtype(value: Any) -> Any:  # noqa: ANN401 - whatever a block takes
            if not isinstance(value, Tensor) or not value.is_floating_point():
                return value
            return rounded.setdefault(id(value), value.to(self._dtype))

        return (
            tuple(to_dtype(value) for value in args),
            {name: to_dtype(value) for name, value in kwargs.items()},
        )


def _to_stream(block: nn.Module, args: Any, output: Any) -> Any:  # noqa: ANN401 - torch's
    """Back to float32."""
    if isinstance(output, tuple):
        return tuple(_to_stream(block, args, value) for value in output)
    return output.float() if isinstance(output, Tensor) else output
