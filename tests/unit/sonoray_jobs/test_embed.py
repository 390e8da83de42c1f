import pytest

from llava_ultra.testing import tiny_config, tiny_language, tiny_towers
from sonoray.feature_store import FeatureStore
from sonoray_jobs import embed


@pytest.mark.parametrize("tower", [0, 1])
def test_features_of_an_exchanged_tower_are_not_written(tower, tmp_path):
    """Complete and consistent in itself, but not the one that the store was made for."""
    config = tiny_config()
    name = embed.TOWERS[tower]
    right, other = (tiny_towers(config, tiny_language(config), seed)[tower] for seed in (0, 1))
    store = FeatureStore(
        tmp_path / "features", right.fingerprint, right.num_tokens, right.num_channels
    )
    right.save(tmp_path / "part")
    embed.TowerActor(name, tmp_path / "part", store, "cpu")
    other.save(tmp_path / "part")
    with pytest.raises(ValueError, match=f"{other.fingerprint[:16]} does not match the expected"):
        embed.TowerActor(name, tmp_path / "part", store, "cpu")
