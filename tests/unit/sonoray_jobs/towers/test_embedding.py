"""What the embed stage stores, without a cluster: every layer and token that a tower hands out."""

import pytest
import torch

from llava_ultra.batch import StudyFeatures, collate_features
from llava_ultra.config import ModelConfig
from llava_ultra.testing import tiny_config, tiny_image, tiny_language, tiny_model, tiny_towers
from llava_ultra.towers.tower import encode_images
from sonoray_jobs.outputs.stores import stores_of
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.road.embed_config import EmbedConfig
from sonoray_jobs.towers import embedding


def test_several_layers_and_a_class_token_go_through_the_store_into_the_fusion(tmp_path):
    values = tiny_config().model_dump()
    values["fusion"] = {"type": "layer_merge"}
    values["clip"] |= {"feature_layers": [0, 1], "class_token": True}
    values["sam"] |= {"feature_layers": [-1]}
    config = ModelConfig.model_validate(values)
    language = tiny_language(config)
    towers = dict(zip(("clip", "sam"), tiny_towers(config, language), strict=True))
    prints = {name: tower.fingerprint for name, tower in towers.items()}
    road = RoadConfig(model=config, embed={"dtype": "float32"})
    stores = stores_of(tmp_path, road.model, road.embed, prints)
    images, ids = [tiny_image(0), tiny_image(1)], ["a" * 64, "b" * 64]
    fresh = {}
    for name, tower in towers.items():
        assert stores[name].shape == (tower.num_tokens, tower.num_channels)
        fresh[name] = encode_images(tower, images, "cpu")
        stores[name].write(ids, fresh[name].numpy())
    assert stores["clip"].shape == (5, 64)
    assert stores["sam"].shape == (4, 128)
    read = collate_features([StudyFeatures(**{n: s.read(ids) for n, s in stores.items()})])
    model = tiny_model(config, language)
    with torch.no_grad():
        fused = model.fuse(read.clip, read.sam)
        assert torch.equal(fused[0], model.fuse(fresh["clip"], fresh["sam"]))
    assert fused.shape == (1, 2, 5, 32)


@pytest.mark.parametrize(
    ("settings", "cluster", "actors"),
    [
        ({}, {"CPU": 2}, (2, 2)),
        ({}, {"CPU": 8}, (8, 8)),
        ({}, {"CPU": 1}, (1, 1)),
        ({"actor_cpus": 0.1}, {"CPU": 2}, (10, 10)),
        ({"actor_cpus": 2}, {"CPU": 8}, (3, 3)),
        ({"actors": 3}, {"CPU": 8}, (3, 3)),
        ({"actor_gpus": 0.5}, {"CPU": 64, "GPU": 4}, (1, 7)),
        ({"actor_gpus": 1, "actor_cpus": 0}, {"CPU": 64, "GPU": 8}, (1, 7)),
    ],
)
def test_pools_fill_the_cluster_unless_their_size_is_given(settings, cluster, actors):
    assert embedding._room_for(EmbedConfig(**settings), cluster, 2).actors == actors


def test_actors_that_ask_for_nothing_are_refused():
    with pytest.raises(ValueError, match=r"embed\.actor_cpus 0 needs embed\.actor_gpus above 0"):
        EmbedConfig(actor_cpus=0)
    assert EmbedConfig(actor_cpus=0, actor_gpus=0.5).actor_gpus == 0.5
