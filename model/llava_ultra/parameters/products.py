"""In which format a model's products are computed: float32 throughout, or bfloat16.

What a road calls its precision. With "bfloat16":

- frozen weights are stored as bfloat16, and the decoder's activations are bfloat16;
- trained parameters (fusion, sampler, adapters) stay float32, and so do their gradients and the
  optimiser's state; the products of fusion and adapters round their factors to bfloat16 each time;
- float32 stay: norms (a norm of the decoder reads and writes bfloat16, and computes in float32),
  the softmax of attention inside its kernel, rotary angles, the blend of the two streams, the
  sampler with its scores, log-probabilities and every loss.

Sums inside a product are float32 on every device. bfloat16 has 8 bits of mantissa, so that a single
product is off by at most 2**-9 of its size; docs/performance.md has what is measured at the end.

Nothing here is torch's autocast: each layer says itself what it multiplies in, so that the same
code runs on tensors without values, which is how `llava_ultra.cost` counts it, and an exported
model computes what the trained one did.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llava_ultra.parameters.precision_names import Precision

DTYPES: dict[Precision, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}

_LEAST_CAPABILITY = (8, 0)
"""Of a CUDA device with bfloat16 units: Ampere."""


class RoundedLinear(nn.Linear):
    """A linear layer that multiplies in `product_dtype` and returns the dtype it was given.

    Its parameters keep their own dtype, as what learns has to.
    """

    product_dtype: torch.dtype

    @classmethod
    def of(cls, linear: nn.Linear, product_dtype: torch.dtype) -> "RoundedLinear":
        """Make one that has the very parameters of `linear`."""
        layer = cls(linear.in_features, linear.out_features, bias=False, device="meta")
        layer.weight, layer.bias = linear.weight, linear.bias
        layer.product_dtype = product_dtype
        return layer.train(linear.training)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as torch calls it
        """Multiply (..., in) to (..., out)."""
        dtype = self.product_dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        return F.linear(input.to(dtype), self.weight.to(dtype), bias).to(input.dtype)


def round_products(module: nn.Module, product_dtype: torch.dtype) -> None:
    """Let the linear layers inside `module` that hold float32 multiply in another format."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Linear and child.weight.dtype == torch.float32:
                setattr(parent, name, RoundedLinear.of(child, product_dtype))


def round_frozen(decoder: nn.Module, product_dtype: torch.dtype) -> None:
    """Store a decoder's own weights in another format, and let its adapters multiply in it.

    Args:
        decoder: wrapped by PEFT or not; only its adapters stay as they are.
        product_dtype: the format.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, parameter in decoder.named_parameters():
        if ".lora_" not in name:
            parameter.data = parameter.data.to(product_dtype)
    for layer in decoder.modules():
        if isinstance(layer, BaseTunerLayer):
            adapted: Any = layer
            adapted.cast_input_dtype_enabled = False  # else PEFT keeps a float32 copy of each input
            round_products(layer, product_dtype)


def fix_products(module: nn.Module) -> None:
    """Round once what `RoundedLinear` would round at every call: to answer, not to learn.

    The values are the same. DoRA's adapters are left alone, since their norm is taken in float32.
    """
    of_dora = {
        inner
        for layer in module.modules()
        if len(getattr(layer, "lora_magnitude_vector", ())) > 0
        for inner in layer.modules()
    }
    for layer in module.modules():
        if isinstance(layer, RoundedLinear) and layer not in of_dora:
            layer.to(layer.product_dtype)


def cpu_has_bfloat16() -> bool:
    """Whether torch multiplies bfloat16 on this CPU by its own instructions."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def check_precision(precision: Precision, device_type: str, setting: str) -> None:
    """Refuse a precision that the device of this process lacks.

    Args:
        precision: what is asked for.
        device_type: `cpu` or `cuda`.
        setting: its name, for the message.

    Raises:
        ValueError: the device has no units for it; torch would emulate it, slower than float32.
    """
    if precision == "float32":
        return
    if device_type == "cuda":
        found = torch.cuda.get_device_capability()
        if found < _LEAST_CAPABILITY:
            raise ValueError(
                f"{setting} {precision!r} needs a GPU of compute capability 8.0 or newer, and "
                f"{torch.cuda.get_device_name()} has {found[0]}.{found[1]}; set {setting} to "
                "float32"
            )
    elif not cpu_has_bfloat16():
        raise ValueError(
            f"{setting} {precision!r} needs a CPU with AVX-512, and this one computes bfloat16 "
            f"slower than float32; set {setting} to float32"
        )
