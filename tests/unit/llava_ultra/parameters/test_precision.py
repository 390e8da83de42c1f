import pytest
import torch

from llava_ultra.parameters.precision import matmul_precision


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_the_precision_holds_inside_and_the_old_one_comes_back(precision):
    before = torch.get_float32_matmul_precision()

    def fail_inside():
        with matmul_precision(precision, "cpu"):
            assert torch.get_float32_matmul_precision() == precision
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail_inside()
    assert torch.get_float32_matmul_precision() == before


def test_attention_is_the_same_to_bfloat16s_precision():
    torch.manual_seed(0)
    query = torch.randn(2, 3, 40, 32)
    mask = torch.ones(40, 40, dtype=torch.bool).tril()
    attend = torch.nn.functional.scaled_dot_product_attention
    exact = attend(query, query, query, attn_mask=mask)
    with matmul_precision("medium", "cpu"):
        rounded = attend(query, query, query, attn_mask=mask)
    assert (rounded - exact).abs().max() < 0.05
    with matmul_precision("highest", "cpu"):
        assert torch.equal(attend(query, query, query, attn_mask=mask), exact)
