"""A road that stores no features: the loading actors compute them, and nothing else changes."""

import pytest
import torch
from safetensors.torch import load_file

from sonoray.errors import ConfigError
from sonoray_jobs.evaluation import evaluate
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.towers import embed
from sonoray_jobs.training import train
from sonoray_jobs.training.train_checks import check_cpus

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def road_of(road: RoadConfig, **values: object) -> RoadConfig:
    return road.model_copy(update={"embed": road.embed.model_copy(update=values)})


@pytest.fixture(scope="module")
def streamed(finished_road, tmp_path_factory):
    """What `embed`, `train` and `evaluate` make of it without a store."""
    workspace = finished_road.copy(tmp_path_factory.mktemp("streamed"), "datasets", "stages")
    road = road_of(finished_road.road, keep="none", actors=1)
    common = {"workspace": workspace, "road": road, "dataset": "phantom"}
    embedded = embed.run(**common)
    trained = train.run(**common)
    evaluated = evaluate.run(**common, gallery=0)
    assert not workspace.features.exists()
    return embedded, trained, evaluated


def test_embed_says_what_it_leaves_to_the_training(streamed, finished_road):
    embedded, _, _ = streamed
    assert embedded.predicted_bytes == 0
    assert set(embedded.streamed) == {"clip", "sam"}
    (count,) = set(embedded.streamed.values())
    assert count > finished_road.embedded.num_images  # four epochs of the training images
    assert embedded.lines() == [
        f"{tower} is not stored: a training computes it {count} times, an evaluation once an image"
        for tower in ("clip", "sam")
    ]


def test_a_training_without_stored_features_has_the_same_bits(streamed, finished_road):
    _, trained, _ = streamed
    expected = finished_road.trained
    assert trained.name == expected.name
    assert not trained.reused
    assert dict(trained.metrics) == dict(expected.metrics)
    for file in ("weights.safetensors", "optimizer.safetensors"):
        wanted, found = (load_file(run.checkpoint / file) for run in (expected, trained))
        assert set(found) == set(wanted)
        assert [name for name in found if not torch.equal(found[name], wanted[name])] == []


def test_an_evaluation_without_stored_features_says_the_same(streamed, finished_road):
    _, _, evaluated = streamed
    same = ("num_studies", "num_questions", "closed", "text", "hit_rate")
    for name in same:
        assert evaluated.summary[name] == finished_road.evaluated.summary[name], name


def test_loaders_that_the_cluster_cannot_hold_are_refused(finished_road):
    road = road_of(finished_road.road, keep="sam", actor_cpus=2)
    with pytest.raises(ConfigError, match=r"embed.actor_cpus \(embed.keep 'sam'\) is 2; lower"):
        check_cpus(road, 4)
    check_cpus(road, 5)
    check_cpus(finished_road.road, 4)
