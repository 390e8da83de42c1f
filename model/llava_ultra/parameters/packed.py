"""Frozen linear layers in oneDNN's own order of weights, for answering on a CPU.

For float32 products torch asks MKL, which on processors that are not Intel's reaches half of what
oneDNN does, and orders a weight anew in every call. `pack_linear` orders each weight once. Products
stay those of float32, or of bfloat16 where the weights are: another order of summation, and nothing
is rounded that was not. On an AMD EPYC (Zen 5, one thread, the shapes of SmolLM2-135M) the products
of 1, 16 and 144 tokens take 0.51, 0.41 and 0.49 of the CPU time.

The weight itself is given up, so that memory holds each once. What a layer needs it for, such as
embeddings that a head is tied to, or an adapter that is merged, has to come first.
"""

import torch
from torch import Tensor, nn

_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.05}
"""Largest difference to torch's own product that is taken, relative to the largest value."""
_TRIED_ROWS = 3


class PackedLinear(nn.Module):
    """A linear layer that can only be multiplied by."""

    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())
        self._packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) to (..., O)."""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self._packed, self.bias, "none", [], ""
        )
        return product

    def extra_repr(self) -> str:
        """What torch shows of it."""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


def pack_linear(module: nn.Module) -> int:
    """Pack the linear layers inside a frozen module on a CPU, and return how many.

    None is packed where this build of torch has no oneDNN, a layer whose weight another layer uses
    too stays as it is, and so do all where one gives another product than torch's own.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return 0
    uses: dict[int, int] = {}
    for each in module.modules():
        for parameter in each.parameters(recurse=False):
            uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    found = [
        (parent, name, child)
        for parent in module.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear
        and child.weight.device.type == "cpu"
        and child.weight.dtype in _TOLERANCE
        and uses[id(child.weight)] == 1
    ]
    if not found or not _is_equal(found[0][2]):
        return 0
    for parent, name, child in found:
        setattr(parent, name, PackedLinear(child))
    return len(found)


@torch.no_grad()
def _is_equal(linear: nn.Linear) -> bool:
    """Whether a packed layer gives what the layer does."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(_TRIED_ROWS, linear.in_features, generator=generator)
    rows = rows.to(linear.weight.dtype)
    try:
        packed, own = PackedLinear(linear)(rows).float(), linear(rows).float()
    except (RuntimeError, NotImplementedError):  # an operator that this processor lacks
        return False
    return bool((packed - own).abs().max() <= _TOLERANCE[rows.dtype] * own.abs().max())
