import copy

import pytest
import torch
from segment_anything.modeling.image_encoder import Attention

from llava_ultra.config import SamConfig
from llava_ultra.towers import sam_attention
from llava_ultra.towers.sam import SamTower
from llava_ultra.towers.sam_attention import LEAST_TOKENS, ChunkedAttention


def build(height=6, width=5, dtype=torch.float32):
    torch.manual_seed(0)
    attention = Attention(24, num_heads=3, use_rel_pos=True, input_size=(height, width))
    for table in (attention.rel_pos_h, attention.rel_pos_w):
        torch.nn.init.normal_(table)
    return attention.to(dtype)


@pytest.mark.parametrize("rows", [1, 4, 6], ids=["a row", "uneven chunks", "all at once"])
def test_chunks_give_the_librarys_output_and_gradients(rows, monkeypatch):
    library = build()
    chunked = ChunkedAttention(copy.deepcopy(library))
    monkeypatch.setattr(sam_attention, "CHUNK_VALUES", rows * 2 * 3 * 5 * 6 * 5)
    states = torch.randn(2, 6, 5, 24)
    weights = torch.randn_like(states)
    found = []
    for attention in (library, chunked):
        given = states.clone().requires_grad_()
        output = attention(given)
        (output * weights).sum().backward()
        gradients = {name: p.grad for name, p in attention.named_parameters()}
        with torch.no_grad():
            torch.testing.assert_close(attention(states), output)
        found.append((output, given.grad, gradients))
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-5)


def test_the_weights_have_the_librarys_names():
    library = build()
    assert ChunkedAttention(library).state_dict().keys() == library.state_dict().keys()


def test_a_large_tower_gives_the_features_of_the_librarys_encoder():
    """33 x 33 tokens; the global block alone is replaced, and says so in the fingerprint."""
    config = SamConfig(
        image_size=264,
        patch_size=8,
        width=32,
        layers=2,
        heads=2,
        out_channels=8,
        window_size=6,
        global_layers=(1,),
    )
    torch.manual_seed(0)
    tower = SamTower(config, target_grid=11).eval()
    attention = [block.attn for block in tower.encoder.blocks]
    assert [type(each) for each in attention] == [Attention, ChunkedAttention]
    for each in attention:
        torch.nn.init.normal_(each.rel_pos_h, std=0.5)
        torch.nn.init.normal_(each.rel_pos_w, std=0.5)
    pixels = torch.randn(1, 3, 264, 264)
    with torch.no_grad():
        found = tower(pixels)
        plain = Attention(32, num_heads=2, use_rel_pos=True, input_size=(33, 33))
        plain.load_state_dict(attention[1].state_dict())
        tower.encoder.blocks[1].attn = plain
        torch.testing.assert_close(found, tower(pixels), rtol=1e-5, atol=1e-5)
    fingerprint = tower.fingerprint
    tower.in_chunks = False
    assert tower.fingerprint != fingerprint


def test_grids_that_a_cpu_trains_keep_the_librarys_arithmetic():
    """24 x 24 tokens of the largest such preset; larger ones would not."""
    config = SamConfig(image_size=192, patch_size=8, width=32, layers=1, heads=2, out_channels=8)
    assert config.grid**2 < LEAST_TOKENS
    tower = SamTower(config, target_grid=6)
    assert not tower.in_chunks
    assert all(type(block.attn) is Attention for block in tower.encoder.blocks)
