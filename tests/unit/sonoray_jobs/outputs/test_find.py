"""Names of what a road makes: everything that decides an output is in its key, and nothing else."""

import json
import os

import pytest

from sonoray.stages import StageOutput
from sonoray.workspace import Workspace
from sonoray_jobs.evaluation.ablation.variants import with_values
from sonoray_jobs.outputs.find import (
    Trained,
    answer_settings,
    evaluation_stage,
    export_stage,
    find_whole_evaluation,
    trained_elsewhere,
    training_name,
    training_stage,
)
from sonoray_jobs.road.config import RoadConfig

ROAD = RoadConfig()


def output(path, key="d", name="ingest-phantom"):
    return StageOutput(path=path, manifest={"key": key * 64, "name": name}, reused=True)


@pytest.fixture
def dataset(tmp_path):
    return output(tmp_path)


@pytest.fixture
def parts(tmp_path):
    return {part: output(tmp_path, key) for part, key in zip(("clip", "sam"), "cs", strict=True)}


def trained(path, name="phantom-1"):
    return Trained(name=name, run_id="r", checkpoint=path, metrics={}, reused=True)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("train.seed", 7),
        ("train.site_cue", True),
        ("train.resume", "phantom-0123456789ab"),
        ("train.variant", "other-loss"),
        ("train.studies_per_step", 8),
        ("model.lora.rank", 3),
        ("embed.dtype", "int8"),
        ("embed.precision", "bfloat16"),
        ("train.precision", "bfloat16"),
        ("train.closed_first", True),
    ],
)
def test_a_setting_that_decides_what_is_learned_makes_another_training(
    dataset, parts, setting, value
):
    stage = training_stage(with_values(ROAD, {setting: value}), dataset, parts)
    assert stage.key != training_stage(ROAD, dataset, parts).key


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("train.num_workers", 3),
        ("train.cpus_per_worker", 0.25),
        ("train.min_workers", 1),
        ("train.save_every", "50 steps"),
        ("train.collective_timeout_s", 60),
        ("train.allow_changed", ["train.seed"]),
        ("train.micro_studies", 1),
        ("train.micro_tokens", 4096),
        ("train.activation_checkpointing", True),
        ("train.zero_stage", 1),
        ("model.language.source", "/some/where"),
        ("serve.limits.max_images", 8),
        ("evaluate.max_tokens", 8),
        ("embed.batch_size", 32),
        ("evaluate.precision", "bfloat16"),
        ("serve.precision", "bfloat16"),
    ],
)
def test_where_it_runs_and_what_comes_after_makes_no_other_training(dataset, parts, setting, value):
    stage = training_stage(with_values(ROAD, {setting: value}), dataset, parts)
    assert stage.key == training_stage(ROAD, dataset, parts).key


def test_other_inputs_or_another_version_make_another_training(
    tmp_path, dataset, parts, monkeypatch
):
    known = training_stage(ROAD, dataset, parts)
    assert training_name(known) == f"phantom-{known.key[:12]}"
    before = known.key
    assert training_stage(ROAD, output(tmp_path, "e"), parts).key != before
    assert training_stage(ROAD, dataset, parts | {"sam": output(tmp_path, "t")}).key != before
    monkeypatch.setattr("sonoray_jobs.outputs.find.TRAINING_VERSION", 0)
    assert training_stage(ROAD, dataset, parts).key != before


def test_no_text_of_the_code_is_part_of_a_trainings_key(dataset, parts):
    assert not training_stage(ROAD, dataset, parts).code


def test_an_evaluation_follows_from_its_training_its_data_and_its_settings(tmp_path, dataset):
    def key(road=ROAD, name="phantom-1", data=dataset, split="test"):
        return evaluation_stage(road, "phantom", data, trained(tmp_path, name), split).key

    assert key(with_values(ROAD, {"evaluate.actors": 7})) == key()
    others = [
        key(name="phantom-2"),
        key(data=output(tmp_path, "e")),
        key(split="validation"),
        key(with_values(ROAD, {"evaluate.max_tokens": 7})),
        key(with_values(ROAD, {"evaluate.positive_options": {"pathology": "良性"}})),
        key(with_values(ROAD, {"evaluate.seed": 7})),
        key(with_values(ROAD, {"evaluate.precision": "float32"})),
    ]
    assert len({key(), *others}) == 1 + len(others)


def test_settings_that_came_later_are_in_no_key_while_they_change_nothing(tmp_path, dataset, parts):
    """Else every training and evaluation of before would be made anew."""
    stages = [
        training_stage(ROAD, dataset, parts),
        evaluation_stage(ROAD, "phantom", dataset, trained(tmp_path), "test"),
    ]
    told = json.dumps([stage.config for stage in stages] + [answer_settings(ROAD)])
    assert '"matmul_precision": "highest"' in told
    assert '"precision"' not in told
    assert told.count('"zero_stage": 2') == 2  # once decisive, and in the keys of then
    assert "micro_" not in told
    assert "tower_precision" not in told
    lowered = with_values(ROAD, {"embed.precision": "bfloat16", "evaluate.precision": "float32"})
    settings = answer_settings(lowered)
    assert settings["embed"]["precision"] == "bfloat16"
    assert settings["evaluate"]["precision"] == "float32"
    assert settings["train"] == answer_settings(ROAD)["train"]


def test_another_name_training_part_or_test_is_another_model(tmp_path, dataset, parts):
    keys = {
        export_stage("m", dataset, trained(tmp_path), parts).key,
        export_stage("m", dataset, trained(tmp_path, "phantom-2"), parts).key,
        export_stage("m", dataset, trained(tmp_path), parts | {"sam": output(tmp_path, "t")}).key,
        export_stage("other", dataset, trained(tmp_path), parts).key,
        export_stage("m", dataset, trained(tmp_path), parts, "answers").key,
        export_stage("m", dataset, trained(tmp_path), parts, "", {"temperature": 2.0}).key,
    }
    assert len(keys) == 6


def made(root, name, *, inputs=(), config=None, made_at):
    """A finished stage as its manifest tells it."""
    folder = root / f"{name}-{made_at:012d}"
    folder.mkdir(parents=True)
    manifest = {"name": name, "key": folder.name, "inputs": list(inputs), "config": config or {}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    os.utime(folder / "manifest.json", (made_at, made_at))
    return StageOutput(path=folder, manifest=manifest, reused=True)


@pytest.fixture
def workspace(tmp_path):
    """One with the datasets `phantom` and `other`."""
    found = Workspace.open(tmp_path / "workspace")
    for number, name in enumerate(("phantom", "other")):
        dataset = made(found.stages, f"ingest-{name}", made_at=number)
        found.point_dataset(name, dataset)
    return found


def test_trainings_elsewhere_count_where_none_is_on_the_dataset(workspace):
    assert trained_elsewhere(workspace, "other") == []
    made(workspace.stages, "train-phantom", made_at=2)
    made(workspace.stages, "train-phantom", made_at=1)
    assert trained_elsewhere(workspace, "other") == ["phantom-000000000001", "phantom-000000000002"]
    assert trained_elsewhere(workspace, "phantom") == []
    made(workspace.stages, "train-other", made_at=3)
    assert trained_elsewhere(workspace, "other") == []


def test_the_internal_test_is_the_newest_whole_one_of_the_training(workspace, tmp_path):
    key = workspace.dataset("phantom").key
    own, whole = [key, "phantom-1", "r"], {"only": {}, "topics": []}

    def find(name="phantom-1"):
        return find_whole_evaluation(workspace, "phantom", trained(tmp_path, name), "test")

    assert find() is None
    name = "evaluate-phantom-test"
    made(workspace.stages, name, inputs=own, config=whole, made_at=1)
    newest = made(workspace.stages, name, inputs=own, config=whole, made_at=5)
    made(workspace.stages, name, inputs=own, config=whole, made_at=3)
    made(workspace.stages, name, inputs=own, config=whole | {"topics": ["side"]}, made_at=8)
    made(workspace.stages, name, inputs=own, config=whole | {"only": {"a": "b"}}, made_at=9)
    made(workspace.stages, name, inputs=["x", "phantom-1", "r"], config=whole, made_at=10)
    validation = "evaluate-phantom-validation"
    made(workspace.stages, validation, inputs=own, config=whole, made_at=11)
    found = find()
    assert found is not None
    assert found.path == newest.path
    assert find("phantom-2") is None
