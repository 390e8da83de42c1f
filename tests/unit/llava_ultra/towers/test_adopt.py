"""Published towers: what they compute beside open_clip's and transformers' own, what is refused.

No published weights are at hand: random ones take their place, since a wrong name, a wrong layer or
another epsilon shows with them just as well.
"""

import pickle

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from transformers import SamVisionConfig, SamVisionModel

from llava_ultra.config import ClipConfig, SamConfig
from llava_ultra.towers.adopt import (
    SAM_MEAN,
    adopt_clip,
    adopt_sam,
    read_weights,
    sam_encoder_state,
)
from llava_ultra.towers.clip import ClipTower
from llava_ultra.towers.sam import SamTower
from llava_ultra.towers.tower import encode_images, fit_adopted

SOURCE = "ViT-S-32-alt"
SAM = {
    "image_size": 128,
    "width": 48,
    "layers": 4,
    "heads": 3,
    "out_channels": 16,
    "window_size": 3,  # the grid of 8 is no multiple: the windows are padded
    "global_layers": (1, 3),
}


@pytest.fixture(scope="module")
def published():
    """open_clip's own model, with random weights."""
    torch.manual_seed(0)
    model = open_clip.create_model(SOURCE, pretrained=None)
    return model.eval()


@pytest.fixture(scope="module")
def clip_file(published, tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "weights.safetensors"
    save_file({k: v.contiguous() for k, v in published.state_dict().items()}, path)
    return str(path)


def clip_config(weights, **changes):
    return ClipConfig(source=SOURCE, weights=weights, **changes)


def transformers_sam():
    """transformers' encoder with weights of a size that makes every part count."""
    model = SamVisionModel(
        SamVisionConfig(
            hidden_size=SAM["width"],
            output_channels=SAM["out_channels"],
            num_hidden_layers=SAM["layers"],
            num_attention_heads=SAM["heads"],
            image_size=SAM["image_size"],
            window_size=SAM["window_size"],
            global_attn_indexes=SAM["global_layers"],
        )
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


def as_meta_names(state):
    """A whole SAM's checkpoint as Meta publishes it."""
    own = {f"image_encoder.{name}": tensor for name, tensor in sam_encoder_state(state).items()}
    return {**own, "mask_decoder.iou_token.weight": torch.zeros(1, 4)}


def test_the_architecture_fills_the_shape(clip_file):
    config = clip_config(clip_file)
    assert (config.image_size, config.patch_size, config.width, config.layers) == (224, 32, 384, 12)
    assert ClipConfig.model_validate(config.model_dump()) == config
    large = ClipConfig(source="ViT-L-14-336-quickgelu", weights="x.pt", image_size=448)
    assert (large.grid, large.width, large.num_tokens) == (32, 1024, 1024)


def test_adopted_clip_is_open_clips_own_layer_and_embedding(published, clip_file):
    tower = adopt_clip(clip_config(clip_file))
    pixels = torch.randn(2, 3, 224, 224)
    seen = {}
    block = published.visual.transformer.resblocks[-2]
    handle = block.register_forward_hook(lambda _m, _i, output: seen.update(tokens=output))
    with torch.no_grad():
        embedding = published.encode_image(pixels)
        handle.remove()
        assert torch.allclose(tower.clip.visual(pixels), embedding, atol=1e-6)
        assert torch.allclose(tower(pixels), seen["tokens"][:, 1:], atol=1e-5)


def test_several_layers_and_the_class_token_lie_where_the_config_says(published, clip_file):
    config = clip_config(clip_file, feature_layers=(1, -4, -1), class_token=True)
    tower = adopt_clip(config)
    pixels = torch.randn(1, 3, 224, 224)
    seen = []
    handles = [
        published.visual.transformer.resblocks[layer].register_forward_hook(
            lambda _m, _i, output: seen.append(output)
        )
        for layer in (1, 8, 11)
    ]
    with torch.no_grad():
        published.encode_image(pixels)
        features = tower(pixels)
    for handle in handles:
        handle.remove()
    assert features.shape == (1, config.num_tokens, config.num_channels) == (1, 50, 3 * 384)
    assert torch.allclose(features, torch.cat(seen, dim=-1), atol=1e-5)


def test_adopted_clip_reads_pixels_as_it_was_trained(published, clip_file):
    tower = adopt_clip(clip_config(clip_file, feature_layer=-1))
    image = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    # at its own size open_clip's own transform does nothing but normalise
    own = open_clip.image_transform(224, is_train=False, mean=published.visual.image_mean)
    from PIL import Image

    with torch.no_grad():
        expected = tower(own(Image.fromarray(image))[None])
    assert torch.allclose(encode_images(tower, [image], "cpu"), expected, atol=1e-4)


def test_another_input_size_interpolates_the_positions(clip_file):
    tower = adopt_clip(clip_config(clip_file, image_size=128))
    with torch.no_grad():
        assert tower(torch.randn(1, 3, 128, 128)).shape == (1, 16, 384)


@pytest.mark.parametrize("names", ["transformers", "meta", "encoder alone"])
def test_adopted_sam_is_that_of_transformers(names, tmp_path):
    theirs = transformers_sam()
    state = theirs.state_dict()
    path = tmp_path / "sam.pth"
    if names == "meta":
        state = as_meta_names(state)
    if names == "encoder alone":
        state = sam_encoder_state(state)
    torch.save(state, path)
    tower = adopt_sam(SamConfig(weights=str(path), **SAM), target_grid=4)
    # random weights of this size hardly show the epsilon
    norms = [m for m in theirs.modules() if isinstance(m, torch.nn.LayerNorm)]
    ours = [m for m in tower.encoder.modules() if isinstance(m, torch.nn.LayerNorm)]
    assert {norm.eps for norm in ours} == {norm.eps for norm in norms}
    pixels = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = theirs(pixels).last_hidden_state
        assert expected.std() > 0.1
        assert torch.allclose(tower.encoder(pixels), expected, atol=1e-5)
        # blocks: transformers' hidden states, the input of the first one in front
        hidden = theirs(pixels, output_hidden_states=True).hidden_states
        config = SamConfig(weights=str(path), feature_layers=(0, 2), **SAM)
        features = adopt_sam(config, target_grid=8)(pixels)
        assert features.shape == (2, 64, config.num_channels) == (2, 64, 96)
        wanted = torch.cat([hidden[1], hidden[3]], dim=-1).flatten(1, 2)
        assert torch.allclose(features, wanted, atol=1e-5)


def test_the_published_vit_b_has_the_names_and_shapes_of_transformers():
    with torch.device("meta"):
        theirs = SamVisionModel(SamVisionConfig())  # facebook/sam-vit-base
        config = SamConfig(
            weights="sam_vit_b.pth",
            image_size=1024,
            width=768,
            layers=12,
            heads=12,
            out_channels=256,
            window_size=14,
            global_layers=(2, 5, 8, 11),
        )
        ours = SamTower(config, target_grid=32)
    renamed = {name: t.shape for name, t in sam_encoder_state(theirs.state_dict()).items()}
    assert renamed == {name: t.shape for name, t in ours.encoder.state_dict().items()}


def test_an_adopted_tower_is_saved_standardised_and_comes_back(clip_file, tmp_path):
    torch.save(as_meta_names(transformers_sam().state_dict()), tmp_path / "sam.pth")
    images = [np.random.default_rng(n).integers(0, 256, (90, 70), np.uint8) for n in range(6)]
    sam = adopt_sam(SamConfig(weights=str(tmp_path / "sam.pth"), **SAM), target_grid=4)
    for tower in (adopt_clip(clip_config(clip_file)), sam):
        fit_adopted(tower, images)
        features = encode_images(tower, images, "cpu").flatten(0, 1)
        assert features.mean(dim=0).abs().max() < 1e-3
        assert (features.std(dim=0, correction=0) - 1).abs().max() < 1e-2
        folder = tmp_path / type(tower).__name__
        tower.save(folder)
        loaded = type(tower).load(folder)
        assert loaded.fingerprint == tower.fingerprint
        assert loaded.pixel_statistics == tower.pixel_statistics
        again = encode_images(loaded, images, "cpu").flatten(0, 1)
        assert torch.equal(again, features)
    assert sam.pixel_statistics[0] == SAM_MEAN


def test_where_the_weights_lie_is_not_part_of_the_fingerprint(tmp_path):
    state = transformers_sam().state_dict()
    found = set()
    for name in ("a.pth", "b.pth"):
        torch.save(state, tmp_path / name)
        config = SamConfig(weights=str(tmp_path / name), **SAM)
        found.add(adopt_sam(config, target_grid=4).fingerprint)
    assert len(found) == 1


class Harmful:
    def __reduce__(self):
        return (print, ("code ran",))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.safetensors", None, "do not exist"),
        ("tower.bin", b"x", r"none of \.safetensors, \.pt and \.pth"),
        ("noise.safetensors", b"x" * 64, "no plain tensors"),
        ("noise.pt", b"x" * 64, "no plain tensors"),
        ("pickled.pt", pickle.dumps(Harmful(), protocol=2), "no plain tensors"),
    ],
)
def test_what_is_no_file_of_tensors_is_refused_in_one_line(
    name, content, message, tmp_path, capsys
):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    for adopt in (
        lambda: read_weights(path),
        lambda: adopt_clip(clip_config(str(path))),
        lambda: adopt_sam(SamConfig(weights=str(path), **SAM), target_grid=4),
    ):
        with pytest.raises(ValueError, match=r"weights '.*'") as caught:
            adopt()
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=message):
        read_weights(path)
    assert "code ran" not in capsys.readouterr().out


def test_an_object_saved_with_the_tensors_is_refused(tmp_path):
    torch.save({"weight": torch.zeros(2), "config": Harmful()}, tmp_path / "trained.pt")
    with pytest.raises(ValueError, match="no plain tensors"):
        read_weights(tmp_path / "trained.pt")
    torch.save({"epoch": 3}, tmp_path / "epoch.pt")
    with pytest.raises(ValueError, match="no dictionary of tensors"):
        read_weights(tmp_path / "epoch.pt")


def test_weights_of_another_shape_are_refused_with_both_shapes(clip_file, tmp_path):
    torch.save(transformers_sam().state_dict(), tmp_path / "sam.pth")
    config = SamConfig(weights=str(tmp_path / "sam.pth"), **{**SAM, "image_size": 64})
    with pytest.raises(ValueError, match=r"rel_pos_h as \(15, 16\), the config asks for \(7, 16\)"):
        adopt_sam(config, target_grid=4)
    with pytest.raises(ValueError, match=r"do not fit clip\.source 'ViT-S-32'"):
        adopt_clip(ClipConfig(source="ViT-S-32", weights=clip_file))
    with pytest.raises(ValueError, match=r"do not fit clip\.source"):
        adopt_clip(clip_config(str(tmp_path / "sam.pth")))


def test_a_tag_that_wants_quickgelu_is_refused_with_the_architecture_that_has_it():
    with pytest.raises(ValueError, match=r"set clip\.source to 'ViT-L-14-336-quickgelu'"):
        adopt_clip(ClipConfig(source="ViT-L-14-336", weights="openai"))


def test_a_tag_is_fetched_with_its_own_pixel_statistics(clip_file, monkeypatch):
    # the registry of open_clip, with a tag whose file is already here
    tag = {"file": clip_file, "mean": (0.5, 0.5, 0.5), "std": (0.4, 0.4, 0.4)}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, SOURCE, {"ours": tag})
    tower = adopt_clip(clip_config("ours"))
    assert tower.pixel_statistics == ((0.5, 0.5, 0.5), (0.4, 0.4, 0.4))
    own = adopt_clip(clip_config("ours", pixel_mean=(0, 0, 0), pixel_std=(1, 1, 1)))
    assert own.pixel_statistics == ((0, 0, 0), (1, 1, 1))


def test_a_tag_without_a_network_is_one_line(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise OSError("offline mode\nis enabled")

    monkeypatch.setattr(open_clip, "download_pretrained", refuse)
    with pytest.raises(ValueError, match=r"'openai' cannot be fetched \(offline mode\)"):
        adopt_clip(ClipConfig(source="ViT-L-14-336-quickgelu", weights="openai"))


def test_an_architecture_without_a_class_token_gives_its_patches_only():
    from llava_ultra.towers.adopt import _check_shape

    shape = {"patch_size": 16, "width": 768, "layers": 12}
    config = ClipConfig(source="ViT-B-16-SigLIP", weights="x.pt", image_size=64, **shape)
    tower = ClipTower(config, vocab_size=0, end_id=0, pad_id=0)
    _check_shape(tower, config.source)
    tower.config = config.model_copy(update={"class_token": True})
    with pytest.raises(ValueError, match="class token"):
        _check_shape(tower, config.source)
    tower.config = config.model_copy(update={"width": 384})
    with pytest.raises(ValueError, match=r"gives \(16, 768\) .* asks for \(16, 384\)"):
        _check_shape(tower, config.source)


PUBLISHED = {"source": SOURCE, "weights": "a.pt"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"source": "ViT-Q-14", "weights": "a.pt"}, "no architecture of open_clip"),
        ({"source": "../ViT-L-14", "weights": "a.pt"}, "no architecture of open_clip"),
        ({"source": "RN50", "weights": "a.pt"}, "is a ResNet"),
        ({"source": SOURCE}, "give both or neither"),
        ({"weights": "a.pt"}, "give both or neither"),
        ({"source": SOURCE, "weights": "a.pt", "width": 96}, "width 96 is not that of"),
        ({"source": "ViT-B-16-SigLIP", "weights": "a.pt"}, "does not say the patch_size"),
        ({"source": SOURCE, "weights": "a.pt", "image_size": 250}, "no multiple of patch_size"),
        ({"feature_layers": (0, 3)}, "feature_layers has 3, .* none of the 3 layers; use -3 to 2"),
        ({"feature_layers": (1, -2)}, "must rise and name each layer once"),
        ({"feature_layers": (2, 0)}, "must rise and name each layer once"),
        (PUBLISHED | {"pixel_mean": (0, 0, 0)}, "give both or none"),
        (PUBLISHED | {"pixel_mean": (0, 0, 0), "pixel_std": (1, 1, 0)}, "must be above 0"),
        ({"pixel_mean": (0, 0, 0), "pixel_std": (1, 1, 1)}, "is for published clip.weights"),
    ],
)
def test_clip_settings_that_cannot_be_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        ClipConfig(**values)


def test_sam_layers_that_cannot_be_are_refused():
    with pytest.raises(
        ValueError, match=r"sam\.feature_layers has 4, .* the 4 layers; use -4 to 3"
    ):
        SamConfig(feature_layers=(4,), **SAM)
