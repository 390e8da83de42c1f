import pytest
import torch

from llava_ultra.testing import tiny_config, tiny_language, tiny_towers
from llava_ultra.towers.sam import SamTower


@pytest.fixture(scope="module")
def sam():
    config = tiny_config()
    return tiny_towers(config, tiny_language(config))[1]


def test_sam_blocks_are_read_in_place_of_the_neck(sam):
    config = sam.config.model_copy(update={"feature_layers": (0,)})
    blocks = SamTower(config, target_grid=2)
    blocks.encoder.load_state_dict(sam.encoder.state_dict())
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        features = blocks(pixels)
        # the neck over what was read is the encoder's own output
        grid = torch.nn.functional.pixel_shuffle(features.transpose(1, 2).view(1, 128, 2, 2), 2)
        assert torch.allclose(sam.encoder.neck(grid), sam.encoder(pixels), atol=1e-6)


def test_sam_features_are_the_encoder_unshuffled(sam):
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        grid, features = sam.encoder(pixels), sam(pixels)
    assert grid.shape == (1, 8, 4, 4)
    assert features.shape == (1, 4, 32)
    # token 0 holds the four cells of the top left 2 x 2 block, channel by channel
    assert torch.equal(features[0, 0].view(8, 2, 2), grid[0, :, :2, :2])
    assert torch.equal(features[0, 3].view(8, 2, 2), grid[0, :, 2:, 2:])
