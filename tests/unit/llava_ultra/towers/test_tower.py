import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from llava_ultra.config import ClipConfig
from llava_ultra.digests.state_digest import state_digest
from llava_ultra.testing import tiny_config, tiny_image, tiny_language, tiny_towers
from llava_ultra.towers.clip import ClipTower
from llava_ultra.towers.intensity import standardise_intensity
from llava_ultra.towers.pixels import PREPROCESSING, letterbox, normalise
from llava_ultra.towers.tower import encode_images, fingerprint_of, fit_standardiser


def random_canvases(count, size):
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def towers():
    config = tiny_config()
    return tiny_towers(config, tiny_language(config))


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
    ("module", "own", "other"),
    [
        ("clip", {"open_clip"}, {"segment_anything"}),
        ("sam", {"segment_anything"}, {"open_clip", "transformers", "timm"}),
    ],
)
def test_one_tower_is_imported_without_the_library_of_the_other(module, own, other):
    code = f"import sys, llava_ultra.towers.{module}; print(*sys.modules)"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(child.stdout.split())
    assert own <= loaded
    assert not other & loaded


@pytest.mark.parametrize("which", ["clip", "sam"])
def test_a_standardisation_of_greys_is_part_of_the_tower_and_goes_where_it_goes(which, tmp_path):
    values = tiny_config().model_dump()
    values[which]["intensity"] = "quantile"
    config = type(tiny_config()).model_validate(values)
    place = ("clip", "sam").index(which)
    plain = tiny_towers(tiny_config(), tiny_language(tiny_config()))[place]
    bent = tiny_towers(config, tiny_language(config))[place]
    assert bent.fingerprint != plain.fingerprint
    image = tiny_image(0)
    bent.save(tmp_path)
    loaded = type(bent).load(tmp_path)
    assert (loaded.intensity, loaded.fingerprint) == ("quantile", bent.fingerprint)
    shown = encode_images(loaded, [image], "cpu")
    seen = standardise_intensity(letterbox(image, plain.image_size), "quantile")
    assert torch.equal(shown, encode_images(plain, [seen], "cpu"))
    assert not torch.equal(shown, encode_images(plain, [image], "cpu"))


def test_without_it_a_tower_has_the_fingerprint_that_it_always_had():
    config = {"image_size": 32}
    state = {"w": torch.ones(2)}
    old = hashlib.sha256(
        json.dumps(["sam", PREPROCESSING, config, state_digest(state)], sort_keys=True).encode()
    ).hexdigest()
    assert fingerprint_of("sam", {**config, "intensity": "none"}, state) == old
    assert fingerprint_of("sam", {**config, "intensity": "clahe"}, state) != old
