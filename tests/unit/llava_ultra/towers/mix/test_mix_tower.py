"""Further towers: read as their own library reads them, on the grid that is wanted."""

import json

import open_clip
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
    ViTModel,
)

from llava_ultra.testing import tiny_config, tiny_further, tiny_image, tiny_mix
from llava_ultra.towers.adopt import SAM_MEAN
from llava_ultra.towers.mix.adopt_mix import adopt_further
from llava_ultra.towers.mix.adopt_vision import IMAGENET_MEAN
from llava_ultra.towers.mix.mix_config import FurtherTower, VisionConfig, check_folder
from llava_ultra.towers.mix.mix_tower import MixTower
from llava_ultra.towers.sam import SamTower
from llava_ultra.towers.tower import encode_images, fit_adopted
from llava_ultra.towers.tower_config import ClipConfig, SamConfig

SIDES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8}
IMAGE = {"image_size": 32, "intermediate_size": 32}


def written(kind, folder):
    """A model of transformers of that kind in a folder, with random weights."""
    torch.manual_seed(0)
    if kind == "vit":
        model = ViTModel(ViTConfig(**SIDES, **IMAGE))
    elif kind == "dinov2":
        model = Dinov2Model(Dinov2Config(**SIDES, image_size=32, mlp_ratio=2))
    else:
        vision = CLIPVisionConfig(**SIDES, **IMAGE)
        text = CLIPTextConfig(
            vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
            num_attention_heads=2, eos_token_id=2,
        )  # fmt: skip
        model = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict()))
    model.save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize("kind", ["vit", "dinov2", "clip"])
def test_a_vision_model_is_read_as_transformers_reads_it(kind, tmp_path):
    model = written(kind, tmp_path)
    tower = adopt_further(
        FurtherTower(name="more", transformers=VisionConfig(weights=str(tmp_path))), target_grid=4
    )
    pixels = torch.randn(2, 3, 32, 32)
    seen = model.vision_model if kind == "clip" else model
    with torch.no_grad():
        expected = seen(pixel_values=pixels, output_hidden_states=True).hidden_states[1][:, 1:]
        assert torch.allclose(tower(pixels), expected, atol=1e-6)
        half = tower.standardise(
            F.avg_pool2d(expected.transpose(1, 2).unflatten(2, (4, 4)), 2).flatten(2).mT
        )
    assert tower.pixel_statistics[0] == IMAGENET_MEAN
    coarse = MixTower(tower.config, target_grid=2, architecture=tower.architecture)
    coarse.load_state_dict(tower.state_dict())
    found = coarse.eval()(pixels)
    assert found.shape == (2, 4, 16) == (2, coarse.num_tokens, coarse.num_channels)
    # smoothing reaches into the neighbouring cells, and no further than that
    assert 0.5 < torch.corrcoef(torch.stack([found.flatten(), half.flatten()]))[0, 1] < 1


def test_sam_comes_to_a_grid_by_unshuffle_and_else_by_resize(tmp_path):
    config = SamConfig(
        weights=str(tmp_path / "sam.pth"),
        image_size=64,
        width=32,
        layers=1,
        heads=2,
        out_channels=8,
    )
    own = SamTower(config, target_grid=4)
    torch.save(
        {f"image_encoder.{n}": t for n, t in own.encoder.state_dict().items()}, config.weights
    )
    tower = FurtherTower(name="fine", sam=config)
    pixels = torch.randn(1, 3, 64, 64)
    for grid, channels in ((2, 32), (3, 8)):
        adopted = adopt_further(tower, target_grid=grid)
        assert adopted(pixels).shape == (1, grid**2, channels)
        assert adopted.num_channels == channels
        assert adopted.pixel_statistics[0] == SAM_MEAN
    folder = tmp_path / "trained"
    other = SamTower(config.model_copy(update={"weights": ""}), target_grid=2)
    other.save(folder)
    again = adopt_further(
        FurtherTower(name="fine", sam=config.model_copy(update={"weights": str(folder)})),
        target_grid=4,
    )
    expected = other.read_as(other.config, target_grid=4)(pixels)
    assert torch.allclose(again(pixels), expected, atol=1e-4)  # another epsilon in the norms
    wide = config.model_copy(update={"weights": str(folder), "out_channels": 16})
    with pytest.raises(ValueError, match=r"tower 'fine': sam\.weights .*another shape"):
        adopt_further(FurtherTower(name="fine", sam=wide), target_grid=4)


def test_an_architecture_of_open_clip_is_one_more_tower(tmp_path):
    file = tmp_path / "clip.safetensors"
    model = open_clip.create_model("ViT-S-32-alt", pretrained=None)
    save_file(model.state_dict(), file)
    config = FurtherTower(
        name="b", open_clip=ClipConfig(source="ViT-S-32-alt", weights=str(file), image_size=64)
    )
    tower = adopt_further(config, target_grid=3)
    assert tower(torch.randn(1, 3, 64, 64)).shape == (1, 9, 384)


@pytest.mark.parametrize("name", ["fine", "vit"])
def test_a_saved_tower_is_the_same_and_its_name_is_no_part_of_it(name, tmp_path):
    config = tiny_mix()
    tower = tiny_further(config)[name]
    fit_adopted(tower, [tiny_image(seed) for seed in range(4)])
    tower.save(tmp_path)
    loaded = MixTower.load(tmp_path)
    assert loaded.fingerprint == tower.fingerprint
    images = [tiny_image(9)]
    assert torch.equal(encode_images(loaded, images, "cpu"), encode_images(tower, images, "cpu"))
    renamed = MixTower(
        tower.config.model_copy(update={"name": "other"}),
        target_grid=tower.target_grid,
        architecture=tower.architecture,
    )
    renamed.load_state_dict(tower.state_dict())
    assert renamed.fingerprint == tower.fingerprint
    fresh = tiny_further(config, seed=1)[name]
    other_grid = MixTower(tower.config, target_grid=4, architecture=tower.architecture)
    assert len({tower.fingerprint, fresh.fingerprint, other_grid.fingerprint}) == 3


def test_a_folder_that_lacks_weights_is_refused_and_not_filled_at_random(tmp_path):
    model = written("vit", tmp_path)
    state = model.state_dict()
    del state[next(name for name in state if "1.attention" in name and name.endswith("weight"))]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    tower = FurtherTower(name="dino", transformers=VisionConfig(weights=str(tmp_path)))
    with pytest.raises(ValueError, match=r"tower 'dino': transformers\.weights .* lack or do not"):
        adopt_further(tower, target_grid=2)
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"tower 'dino': transformers\.weights .*cannot be read"):
        adopt_further(tower, target_grid=2)


def test_the_shape_comes_from_the_folder_and_is_kept_without_it(tmp_path):
    written("clip", tmp_path)
    config = VisionConfig(weights=str(tmp_path))
    assert (config.width, config.layers, config.image_size, config.patch_size) == (16, 2, 32, 8)
    values = config.model_dump(mode="json")
    (tmp_path / "config.json").unlink()
    assert VisionConfig.model_validate(values) == config
    with pytest.raises(ValueError, match=r"no folder whose config\.json tells the width, layers"):
        VisionConfig(weights=str(tmp_path))
    other = {"hidden_size": 8, "num_hidden_layers": 2}
    (tmp_path / "config.json").write_text(json.dumps(other), encoding="utf-8")
    assert VisionConfig.model_validate(values) == config
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ValueError, match="width 16 is not that of"):
        check_folder(config)
    del values["layers"]
    with pytest.raises(ValueError, match="width 16 is not that of"):
        VisionConfig.model_validate(values)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"name": "clip", "sam": {"weights": "a.pth"}}, "'clip' is taken"),
        ({"name": "counts", "sam": {"weights": "a.pth"}}, "'counts' is taken"),
        ({"name": "A b", "sam": {"weights": "a.pth"}}, "String should match pattern"),
        ({"name": "x"}, "'x' has none of open_clip, sam, transformers; give one"),
        ({"name": "x", "sam": {}}, r"'x' has no sam\.weights"),
        ({"name": "x", "open_clip": {}}, r"'x' has no open_clip\.weights"),
        (
            {"name": "x", "sam": {"weights": "a.pth"}, "open_clip": {}},
            "has open_clip and sam of",
        ),
    ],
)
def test_a_tower_that_cannot_be_is_refused_in_one_line(values, told):
    with pytest.raises(ValueError, match=told):
        FurtherTower.model_validate(values)


def test_a_model_without_further_towers_says_what_it_always_said():
    """Digests of trainings and exports are made of it."""
    values = tiny_config().model_dump(mode="json")
    assert "towers" not in values
    assert list(values["fusion"]) == ["type", "alpha", "alpha_init"]
    assert set(tiny_mix().model_dump(mode="json")) - set(values) == {"towers"}
