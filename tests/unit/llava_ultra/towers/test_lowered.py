import pytest
import torch

from llava_ultra.testing import tiny_config, tiny_language, tiny_towers
from llava_ultra.towers.clip import _build_published
from llava_ultra.towers.lowered import _blocks, lower_tower
from llava_ultra.towers.sam import SamTower
from llava_ultra.towers.tower_config import ClipConfig, SamConfig

BF16 = torch.bfloat16
WINDOWED = SamConfig(
    image_size=128, patch_size=16, width=64, layers=4, heads=2, window_size=3, global_layers=(1, 3)
)


def towers():
    config = tiny_config()
    clip, sam = tiny_towers(config, tiny_language(config))
    torch.manual_seed(0)
    return {"clip": clip, "sam": sam, "windowed": SamTower(WINDOWED, target_grid=4).eval()}


def standardised(tower, images):
    with torch.no_grad():
        features = tower(images).flatten(0, 1)
        tower.standardise.mean.copy_(features.mean(dim=0))
        tower.standardise.deviation.copy_(features.std(dim=0))
    return tower


@pytest.mark.parametrize("name", ["clip", "sam", "windowed"])
def test_features_stay_near_those_of_float32(name):
    tower = towers()[name]
    torch.manual_seed(1)
    images = torch.rand(8, 3, tower.image_size, tower.image_size)
    standardised(tower, images)
    with torch.no_grad():
        wanted = tower(images)
        lower_tower(tower, BF16)
        found = tower(images)
    assert found.dtype == torch.float32
    assert not torch.equal(found, wanted)
    error = (found - wanted).square().mean().sqrt()
    assert error < 0.03, float(error)


def test_products_are_rounded_and_the_stream_is_not():
    for tower in towers().values():
        lower_tower(tower, BF16)
        for path, module in tower.named_modules():
            own = {p.dtype for p in module.parameters(recurse=False)}
            if isinstance(module, torch.nn.LayerNorm | torch.nn.Conv2d):
                assert own == {torch.float32}, path
            if isinstance(module, torch.nn.Linear):
                assert own == {BF16}, path
        assert tower.standardise.mean.dtype == torch.float32


def test_the_stream_between_the_blocks_is_float32():
    sam = towers()["windowed"]
    lower_tower(sam, BF16)
    seen = []
    for block in sam.encoder.blocks:
        block.register_forward_hook(lambda _, inputs, output: seen.append(output.dtype))
        block.mlp.lin1.register_forward_hook(lambda _, inputs, output: seen.append(output.dtype))
    with torch.no_grad():
        sam(torch.rand(1, 3, 128, 128))
    assert seen == [BF16, torch.float32] * 4


def test_float32_changes_nothing():
    for tower in towers().values():
        before = {name: value.clone() for name, value in tower.state_dict().items()}
        lower_tower(tower, torch.float32)
        assert all(torch.equal(value, before[key]) for key, value in tower.state_dict().items())
        assert not any(module._forward_pre_hooks for module in tower.modules())


@pytest.mark.parametrize("source", ["ViT-S-32-alt", "ViT-B-16-SigLIP-256"])
def test_published_architectures_are_cut_into_blocks(source):
    config = ClipConfig(
        source=source, weights="x.pt", image_size=64, patch_size=32 if "alt" in source else 16,
        **({} if "alt" in source else {"width": 768, "layers": 12}),
    )  # fmt: skip
    torch.manual_seed(0)
    visual = _build_published(config).eval()
    blocks = _blocks(visual)
    inside = {module for block in blocks for module in block.modules()}
    products = [m for m in visual.modules() if isinstance(m, torch.nn.Linear)]
    assert all(module in inside for module in products)
    assert len(blocks) > 2 * 6
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        wanted = visual(images)
        lower_tower(visual, BF16)
        found = visual(images)
    assert torch.nn.functional.cosine_similarity(found, wanted).min() > 0.999
