import pytest
import torch

from llava_ultra.testing import tiny_config, tiny_language, tiny_towers
from llava_ultra.towers.clip import ClipTower


@pytest.fixture(scope="module")
def clip():
    config = tiny_config()
    return tiny_towers(config, tiny_language(config))[0]


def test_clip_features_are_the_penultimate_block_without_the_class_token(clip):
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


def test_layers_and_class_token_lie_side_by_side(clip):
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


def test_the_fingerprint_covers_more_than_weights(clip):
    other_layer = clip.config.model_copy(update={"feature_layer": -1})
    twin = ClipTower(other_layer, **clip.text_ids)
    twin.load_state_dict(clip.state_dict())
    assert twin.fingerprint != clip.fingerprint
