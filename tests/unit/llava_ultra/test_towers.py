import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from llava_ultra.config import ClipConfig, SamConfig
from llava_ultra.pixels import normalise
from llava_ultra.testing import tiny_config, tiny_image, tiny_language, tiny_towers
from llava_ultra.towers import ClipTower, SamTower, encode_images, fit_standardiser


def random_canvases(count, size):
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def towers():
    config = tiny_config()
    return tiny_towers(config, tiny_language(config))


def test_clip_features_are_the_penultimate_block_without_the_class_token(towers):
    clip, _ = towers
    pixels = torch.randn(2, 3, 32, 32)
    seen = {}
    block = clip.clip.visual.transformer.resblocks[-2]
    handle = block.register_forward_hook(lambda _m, _i, output: seen.update(output=output))
    with torch.no_grad():
        clip.clip.encode_image(pixels)  # open_clip's own forward
    handle.remove()
    with torch.no_grad():
        features = clip(pixels)
    assert features.shape == (2, 4, 32)
    assert torch.allclose(features, seen["output"][:, 1:], atol=1e-6)


def test_layers_and_class_token_lie_side_by_side(towers):
    clip, _ = towers
    config = clip.config.model_copy(update={"feature_layers": (0, -1), "class_token": True})
    both = ClipTower(config, **clip.text_ids)
    both.clip.load_state_dict(clip.clip.state_dict())
    pixels = torch.randn(2, 3, 32, 32)
    seen = []
    blocks = both.clip.visual.transformer.resblocks
    handles = [b.register_forward_hook(lambda _m, _i, output: seen.append(output)) for b in blocks]
    with torch.no_grad():
        both.clip.encode_image(pixels)  # open_clip's own forward
        for handle in handles:
            handle.remove()
        features = both(pixels)
        assert features.shape == (2, both.num_tokens, both.num_channels) == (2, 5, 64)
        assert torch.allclose(features, torch.cat(seen, dim=-1), atol=1e-6)
        assert torch.equal(features[:, 1:, :32], clip(pixels))  # layer 0 is the penultimate one


def test_sam_blocks_are_read_in_place_of_the_neck(towers):
    sam = towers[1]
    config = sam.config.model_copy(update={"feature_layers": (0,)})
    blocks = SamTower(config, target_grid=2)
    blocks.encoder.load_state_dict(sam.encoder.state_dict())
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        features = blocks(pixels)
        # the neck over what was read is the encoder's own output
        grid = torch.nn.functional.pixel_shuffle(features.transpose(1, 2).view(1, 128, 2, 2), 2)
        assert torch.allclose(sam.encoder.neck(grid), sam.encoder(pixels), atol=1e-6)


def test_sam_features_are_the_encoder_unshuffled(towers):
    _, sam = towers
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        grid, features = sam.encoder(pixels), sam(pixels)
    assert grid.shape == (1, 8, 4, 4)
    assert features.shape == (1, 4, 32)
    # token 0 holds the four cells of the top left 2 x 2 block, channel by channel
    assert torch.equal(features[0, 0].view(8, 2, 2), grid[0, :, :2, :2])
    assert torch.equal(features[0, 3].view(8, 2, 2), grid[0, :, 2:, 2:])


@pytest.mark.parametrize("which", [0, 1])
def test_a_fitted_standardiser_levels_the_channels_and_is_saved(which, tmp_path):
    config = tiny_config()
    tower = tiny_towers(config, tiny_language(config))[which]
    canvases = random_canvases(600, tower.image_size)
    pixels = normalise(canvases)
    with torch.no_grad():
        before = tower(pixels[:3])
    plain = tower.fingerprint
    fit_standardiser(tower, canvases)
    assert tower.fingerprint != plain
    with torch.no_grad():
        features = tower(pixels[::2]).flatten(0, 1)  # at most 512: every second of 600
        after = tower(pixels[:3])
    assert features.mean(dim=0).abs().max() < 1e-4
    assert (features.std(dim=0, correction=0) - 1).abs().max() < 1e-3
    undone = after * tower.standardise.deviation + tower.standardise.mean
    assert torch.allclose(undone, before, atol=1e-5)
    tower.save(tmp_path)
    again = type(tower).load(tmp_path)
    assert again.fingerprint == tower.fingerprint
    with torch.no_grad():
        assert torch.equal(again(pixels[:3]), after)


def test_a_channel_that_never_moves_is_not_divided_by_nothing():
    config = tiny_config()
    _, sam = tiny_towers(config, tiny_language(config))
    with torch.no_grad():
        sam.encoder.neck[3].weight[0] = 0  # the last LayerNorm: channel 0 is constant
        sam.encoder.neck[3].bias[0] = 2.0
    fit_standardiser(sam, random_canvases(8, 64))
    with torch.no_grad():
        features = sam(torch.randn(2, 3, 64, 64))
    assert torch.isfinite(features).all()
    assert features[..., :4].abs().max() < 1e-5


def test_both_towers_put_a_place_on_the_same_token(towers):
    clip, sam = towers
    plain, marked = np.zeros((64, 64), np.uint8), np.zeros((64, 64), np.uint8)
    marked[40:56, 8:24] = 255  # lower left quarter: token 2 of the 2 x 2 grid

    def change(tower):
        before, after = encode_images(tower, [plain, marked], "cpu")
        return (after - before).norm(dim=-1)

    with torch.no_grad():  # without attention both towers are local
        for block in clip.clip.visual.transformer.resblocks:
            block.attn.out_proj.weight.zero_()
        for block in sam.encoder.blocks:
            block.attn.proj.weight.zero_()
    assert change(clip).argmax() == 2
    assert change(sam).argmax() == 2


@pytest.mark.parametrize("index", [0, 1])
def test_saved_towers_come_back_with_the_same_fingerprint(tmp_path, towers, index):
    tower = towers[index]
    tower.save(tmp_path)
    loaded = type(tower).load(tmp_path)
    assert loaded.fingerprint == tower.fingerprint
    images = [tiny_image(1), tiny_image(2, 90, 30)]
    assert torch.equal(encode_images(loaded, images, "cpu"), encode_images(tower, images, "cpu"))


@pytest.mark.parametrize("index", [0, 1])
def test_a_changed_weight_is_refused(tmp_path, towers, index):
    towers[index].save(tmp_path)
    state = load_file(tmp_path / "weights.safetensors")
    name = sorted(state)[0]
    state[name] = state[name] + 1e-6
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match="does not match the expected"):
        type(towers[index]).load(tmp_path)


def test_the_fingerprint_covers_more_than_weights(towers):
    clip, _ = towers
    other_layer = clip.config.model_copy(update={"feature_layer": -1})
    twin = ClipTower(other_layer, **clip.text_ids)
    twin.load_state_dict(clip.state_dict())
    assert twin.fingerprint != clip.fingerprint


def test_a_missing_file_is_named(tmp_path, towers):
    towers[0].save(tmp_path)
    (tmp_path / "tower.json").unlink()
    with pytest.raises(ValueError, match=r"lacks tower.json"):
        ClipTower.load(tmp_path)


def test_the_saved_description_is_plain_json(tmp_path, towers):
    towers[0].save(tmp_path)
    values = json.loads((tmp_path / "tower.json").read_text())
    assert ClipConfig.model_validate(values["config"]) == towers[0].config


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ClipConfig(image_size=100), "no multiple of patch_size"),
        (lambda: ClipConfig(feature_layer=7), "none of the 3 layers; use -3 to 2"),
        (lambda: ClipConfig(text_width=100), "text_width 100 is no multiple of head_width"),
        (lambda: SamConfig(width=100), "no multiple of heads"),
    ],
)
def test_shapes_that_cannot_be_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
