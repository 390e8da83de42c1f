"""Towers tuned through a finished road's model, and a road that takes them."""

from dataclasses import replace

import pytest

from llava_ultra.towers.clip import ClipTower
from sonoray.errors import ConfigError, DataError
from sonoray.files.json_files import write_json
from sonoray.stages import MANIFEST, read_manifest
from sonoray_jobs.evaluation.ablation.variants import with_values
from sonoray_jobs.outputs.find import (
    find_made,
    find_parts,
    find_training,
    open_stores,
    training_stage,
)
from sonoray_jobs.outputs.part_keys import learning_of, stage_of
from sonoray_jobs.outputs.stores import tower_fingerprints
from sonoray_jobs.towers import bootstrap, embed
from sonoray_jobs.training.tuning import tune

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def given(finished_road):
    road = with_values(
        finished_road.road,
        {"tune.steps": 3, "tune.batch_size": 3, "tune.towers": ["clip"], "tune.turns": 2},
    )
    return {"workspace": finished_road.workspace, "road": road, "dataset": "phantom"}


@pytest.fixture(scope="module")
def tuned(given):
    return tune.run(**given)


@pytest.fixture(scope="module")
def road(given, tuned):
    return with_values(given["road"], {"bootstrap.tuned": tuned.name})


def test_a_road_takes_tuned_towers_and_stores_their_features(finished_road, given, tuned, road):
    values, workspace = tuned.values, finished_road.workspace
    assert values["learned"] == ["clip"]
    assert values["training"] == finished_road.trained.name
    assert values["num_studies"] == 7
    assert values["num_images"] >= 9
    assert any(f"bootstrap.tuned={tuned.name}" in line for line in tuned.lines())
    assert tune.run(**given).output.reused
    placed = with_values(given["road"], {"tune.images_at_once": 2})
    assert tune.run(**{**given, "road": placed}).output.reused  # where, and not what

    with pytest.raises(DataError, match="run: sonoray bootstrap"):
        find_parts(workspace, road, "phantom")
    made = bootstrap.run(workspace=workspace, road=road, dataset="phantom")
    assert any(f"clip: taken from '{tuned.name}'" in line for line in made.lines())
    before = find_parts(workspace, given["road"], "phantom")
    after = find_parts(workspace, road, "phantom")
    for part in ("language", "sam"):  # did not learn
        assert after[part].key == before[part].key
    first, second = tower_fingerprints(before), tower_fingerprints(after)
    assert first["clip"] != second["clip"]
    weights = [ClipTower.load(parts["clip"].path).state_dict() for parts in (before, after)]
    name = "clip.visual.conv1.weight"
    assert not weights[0][name].equal(weights[1][name])
    taken = ClipTower.load(tuned.output.path / "clip").state_dict()
    assert taken[name].equal(weights[1][name])

    computed = embed.run(workspace=workspace, road=road, dataset="phantom").num_computed
    assert computed["clip"] > 0
    assert not computed["sam"]
    stores = open_stores(workspace, road, "phantom")
    assert stores["clip"].fingerprint == second["clip"]
    output = workspace.dataset("phantom")
    assert training_stage(road, output, after).key != training_stage(road, output, before).key
    with pytest.raises(DataError, match="no finished training"):
        find_training(workspace, road, "phantom")


def test_tuned_towers_may_be_read_at_another_layer_and_not_in_another_shape(finished_road, road):
    workspace = finished_road.workspace
    elsewhere = with_values(road, {"model.clip.feature_layer": -1})
    dataset, root = workspace.dataset("phantom"), workspace.stages
    stages = (learning_of("clip", elsewhere, dataset), stage_of("clip", elsewhere, dataset))
    made = bootstrap.make_part("clip", elsewhere, dataset, stages, root, lambda *_: None)
    assert made.path == stages[1].path(root)
    assert made.path != find_parts(workspace, road, "phantom")["clip"].path
    assert ClipTower.load(made.path).config.feature_layer == -1
    other = with_values(road, {"model.clip.width": 64})
    with pytest.raises(DataError, match=r"other settings \(model\.clip\.width 32, here 64\)"):
        find_parts(workspace, other, "phantom")


def test_towers_that_may_have_seen_who_is_judged_are_refused(finished_road, tuned, road):
    workspace = finished_road.workspace

    def told(road, **summary):
        path = tuned.output.path / MANIFEST
        kept = path.read_text(encoding="utf-8")
        manifest = read_manifest(tuned.output.path)
        manifest["summary"] |= summary
        write_json(path, manifest)
        try:
            with pytest.raises(DataError) as caught:
                find_parts(workspace, road, "phantom")
        finally:
            path.write_text(kept, encoding="utf-8")
        return str(caught.value)

    assert "learned from dataset 'clinic', not 'phantom'" in told(road, dataset="clinic")
    assert "before it was ingested anew" in told(road, dataset_key="0" * 64)
    held = with_values(road, {"train.hold_out": {"pathology": ["malignant"]}})
    assert "train.hold_out.pathology None, here ['malignant']" in told(held)
    pretrained = with_values(road, {"bootstrap.clip.steps": 9})  # it would change nothing
    assert "bootstrap.clip.steps 4, here 9" in told(pretrained)
    for name in ("tune-x", next(workspace.stages.glob("train-*")).name):
        message = told(with_values(road, {"bootstrap.tuned": name}))
        assert f"{name!r} is no tuning of this workspace" in message
        assert tuned.name in message


def test_what_cannot_be_tuned_is_told_before_anything_starts(given, monkeypatch):
    made = find_made(given["workspace"], given["road"], given["dataset"])
    for changes, said in (
        ({"bootstrap.tuned": "tune-y"}, "stands on 'tune-y'"),
        ({"tune.batch_size": 8}, r"tune\.batch_size 8 is more than the 7 training studies"),
        ({"tune.towers": ["vit"]}, r"tune\.towers vit are not read by model\.fusion\.type"),
    ):
        changed = with_values(given["road"], changes)
        found = replace(made, road=changed)
        monkeypatch.setattr(tune, "made_by", lambda *_, found=found: found)
        with pytest.raises((ConfigError, ValueError), match=said):
            tune.run(**{**given, "road": changed})
