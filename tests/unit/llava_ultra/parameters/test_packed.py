"""Packed linear layers: the products of torch's own, and nothing else changed."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from llava_ultra.parameters.packed import PackedLinear, pack_linear

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN"
)


@given(
    sizes=st.tuples(*[st.integers(1, 70)] * 3),
    batch=st.integers(1, 3),
    bias=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_products_are_those_of_the_layer(sizes, batch, bias, seed):
    tokens, inputs, outputs = sizes
    torch.manual_seed(seed)
    linear = nn.Linear(inputs, outputs, bias=bias)
    x = torch.randn(batch, tokens, inputs)
    with torch.no_grad():
        expected = nn.functional.linear(
            x.double(), linear.weight.double(), linear.bias.double() if bias else None
        )
        found = PackedLinear(linear)(x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_bfloat16_stays_bfloat16():
    torch.manual_seed(0)
    linear = nn.Linear(64, 48).bfloat16()
    x = torch.randn(2, 5, 64).bfloat16()
    with torch.no_grad():
        found, expected = PackedLinear(linear)(x), linear(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)


def test_a_product_rounds_no_factor():
    """Exact where every product and sum is a float32 number, but no bfloat16 one."""
    linear = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1 + 2**-12, 1.0]]))
        assert PackedLinear(linear)(torch.tensor([[1.0, 2**-12]])).item() == 1 + 2**-11


def test_layers_are_packed_and_those_that_share_a_weight_are_not():
    torch.manual_seed(0)
    head, inner = nn.Linear(8, 20, bias=False), nn.Linear(8, 8)
    embedding = nn.Embedding(20, 8)
    embedding.weight = head.weight
    model = nn.ModuleDict({"in": embedding, "deep": nn.Sequential(inner, nn.GELU()), "out": head})
    x = torch.tensor([[1, 2, 3]])

    def run() -> torch.Tensor:
        with torch.no_grad():
            return model["out"](model["deep"](model["in"](x)))

    before = run()
    assert pack_linear(model) == 1
    assert isinstance(model["deep"][0], PackedLinear)
    assert model["out"] is head
    assert "weight" not in dict(model["deep"][0].named_parameters())
    torch.testing.assert_close(run(), before, rtol=1e-5, atol=1e-6)


def test_nothing_is_packed_that_multiplies_otherwise(monkeypatch):
    model = nn.Sequential(nn.Linear(8, 8))
    monkeypatch.setattr(PackedLinear, "forward", lambda self, x: nn.functional.gelu(x))
    assert pack_linear(model) == 0
    assert type(model[0]) is nn.Linear
