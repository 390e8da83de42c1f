"""How exactly float32 matrices are multiplied while something learns.

`torch.set_float32_matmul_precision` names the choices: "highest" is float32 throughout, "high" may
use TensorFloat-32 on a GPU, "medium" may round the factors to bfloat16; sums stay float32. On a CPU
with bfloat16 instructions (Zen 5, one core) linear layers of the tiny model took 0.30 to 0.63 of
their time at "medium", each by itself; `bench/matmul_precision.py` times whole pretraining steps.
Only learning is ever made less exact: features, likelihoods and answers are computed at "highest".
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from llava_ultra.config import MatmulPrecision


@contextmanager
def matmul_precision(precision: MatmulPrecision, device_type: str) -> Iterator[None]:
    """Multiply float32 matrices with `precision` inside the context, on `cpu` or `cuda`."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    # On a CPU the fused attention converts each small block anew at "medium": 33 ms instead of 2.7
    # for 16 x 4 heads of 60 tokens. Plain matrix products take 1.6 ms.
    plain = precision == "medium" and device_type == "cpu"
    try:
        if plain:
            with sdpa_kernel(SDPBackend.MATH):
                yield
        else:
            yield
    finally:
        torch.set_float32_matmul_precision(before)
