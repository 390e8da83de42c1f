import re
from typing import get_args

import pytest

from sonoray.errors import ConfigError
from sonoray_jobs.cli.options import ConfigOption
from sonoray_jobs.road.config import RoadConfig, load_road, packaged_roads
from sonoray_jobs.road.train_config import TrainConfig
from sonoray_jobs.training.train_checks import check_cpus


@pytest.mark.parametrize("name", sorted(packaged_roads()))
def test_every_packaged_road_loads(name):
    assert load_road(name).dataset


@pytest.mark.parametrize(
    "store",
    [
        "relative/folder",
        "gs://bucket",
        "s3://",
        "s3://key:word@b/x",
        "s3://key:wo/rd@b/x",
        "s3://b:9000/x",
        "s3://b//x",
        "s3://b/x/../y",
        "s3://b/a b",
        "s3://b/日本",
    ],
)
def test_features_go_to_a_folder_or_a_bucket(store):
    with pytest.raises(ConfigError, match=r"embed\.store = .*from /, or s3://bucket/prefix"):
        load_road("tiny", [f"embed.store={store}"])


@pytest.mark.parametrize("store", ["", "/a b/c", "s3://bucket", "s3://b-1.x/a/.b/c=d/"])
def test_a_place_that_may_hold_features_is_kept(store):
    assert load_road("tiny", [f"embed.store={store}"]).embed.store == store


def test_overrides_reach_nested_values():
    road = load_road("tiny", ["train.studies_per_step=4", "model.fusion.type=clip_only"])
    assert road.train.studies_per_step == 4
    assert road.model.fusion.type == "clip_only"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.epoch=3"], "unknown key 'train.epoch'"),
        (["train.num_workers=0"], "train.num_workers = 0"),
        (["train.studies_per_step=1"], "less than num_workers"),
        (["train.min_workers=3"], "train.min_workers 3 is more than train.num_workers 2"),
        (["train.save_every=often"], "train.save_every"),
        (["train.zero_stage=4"], "train.zero_stage = 4"),
        (["train.zero_stage=3", "train.micro_tokens=9"], "no whole parameter .* set both to 0"),
        (["train.zero_stage=0", "train.offload=optimizer"], "raise train.zero_stage, or"),
        (["train.offload=all"], "with train.zero_stage 2: .* the weights at stage 3"),
        (["train.keep=best"], "train.validate_every is 'never'; set it to 'epoch'"),
        (["train.patience=2"], "train.validate_every is 'never'; set it to 'epoch'"),
        (
            [
                "train.stages=[{name='a', epochs=1, learning_rate=1, lora=true}, "
                "{name='b', epochs=1, learning_rate=1}]"
            ],
            "'b' has lora = false after 'a' .* LoRA once on stays on",
        ),
        (["model.sampling.num_selected=0"], "num_selected"),
        (["model.clip.image_size=100"], "no multiple of patch_size"),
        (["model.sam.image_size=80"], "no multiple of the CLIP grid"),
        (["model.fusion.type=sum"], "fusion"),
        (["phantom.images=[0, 3]"], "images"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_it(overrides, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_road("tiny", overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"), [("paper2", "'paper2' is unknown"), ("x.toml", "does not exist")]
)
def test_a_missing_road_is_named(name, message):
    with pytest.raises(ConfigError, match=message):
        load_road(name)


def test_workers_that_would_starve_the_data_are_refused():
    road = RoadConfig(train=TrainConfig(num_workers=2, cpus_per_worker=0.5, data_cpus=0.25))
    with pytest.raises(ConfigError, match=r"leave each 0 of .* train\.data_cpus is 0\.25"):
        check_cpus(road, 2)
    check_cpus(road, 3)


def test_workers_that_do_not_fit_are_refused_and_loading_that_keeps_no_cpu_fits_always():
    road = RoadConfig(train=TrainConfig(num_workers=2, cpus_per_worker=1))
    with pytest.raises(ConfigError, match="leave each 0 of the cluster's 1"):
        check_cpus(road, 1)
    check_cpus(road, 2)


def test_the_help_names_every_packaged_road():
    (option,) = get_args(ConfigOption)[1:]
    named = set(re.findall(r"\w+", option.help))
    assert set(packaged_roads()) <= named


def test_an_error_quotes_the_override_that_it_is_about():
    good, wrong = "phantom.num_patients=20", "embed.batch_size=-1"
    with pytest.raises(ConfigError, match=rf"^--set {wrong}: embed\.batch_size = -1"):
        load_road("tiny", [good, wrong])
    with pytest.raises(ConfigError, match=r"^--set nothing\.such=1: unknown key"):
        load_road("tiny", [good, "nothing.such=1"])
