"""Further towers of a road: their stages, and what is refused before anything runs."""

import pytest

from llava_ultra.testing import tiny_config
from sonoray.errors import CheckpointError
from sonoray.stages import StageOutput
from sonoray.workspace import Workspace
from sonoray_jobs.outputs.part_keys import PARTS, parts_of, stage_of
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.towers import bootstrap

ROAD = RoadConfig.model_validate({"model": tiny_config().model_dump()})


@pytest.fixture
def dataset(tmp_path):
    return StageOutput(path=tmp_path / "stages" / "ingest", manifest={"key": "0" * 64}, reused=True)


def mix_of(*towers):
    values = ROAD.model_dump()
    values["model"]["towers"] = list(towers)
    values["model"]["fusion"] = {"type": "append"}
    return RoadConfig.model_validate(values)


def test_a_further_tower_has_a_key_of_its_own_and_leaves_the_others_theirs(dataset, tmp_path):
    file = tmp_path / "fine.pth"
    file.write_bytes(b"weights")
    fine = {"name": "fine", "sam": {"weights": str(file)}}
    plain, mix = ROAD, mix_of(fine)
    for part in PARTS:
        assert stage_of(part, plain, dataset).key == stage_of(part, mix, dataset).key
    assert parts_of(plain) == PARTS
    assert parts_of(mix) == (*PARTS, "fine")
    keys = {
        stage_of("fine", mix_of({**fine, **change}), dataset).key
        for change in ({}, {"target_grid": 4}, {"sam": {"weights": str(file), "layers": 2}})
    }
    assert len(keys) == 3
    file.write_bytes(b"others")
    assert stage_of("fine", mix_of(fine), dataset).key not in keys


@pytest.mark.parametrize(
    ("tower", "told"),
    [
        ({"sam": {"weights": "none.pth"}}, r"tower 'fine': weights 'none\.pth' do not exist"),
        ({"sam": {"weights": "folder"}}, "tower 'fine': weights 'folder' are none of"),
        (
            {"transformers": {"weights": "none", "width": 8, "layers": 2, "image_size": 32,
                              "patch_size": 8}},
            r"tower 'fine': transformers\.weights 'none' is no folder with config\.json",
        ),
    ],
)  # fmt: skip
def test_missing_weights_of_a_further_tower_are_told_before_a_cluster_starts(
    tower, told, dataset, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bootstrap, "learned_from", lambda *_: dataset)
    with pytest.raises(CheckpointError, match=told):
        bootstrap.run(
            workspace=Workspace.open(tmp_path / "ws"),
            road=mix_of({"name": "fine", **tower}),
            dataset="images",
        )


def test_a_tower_that_the_fusion_does_not_read_is_told(dataset, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(bootstrap, "learned_from", lambda *_: dataset)
    monkeypatch.chdir(tmp_path)
    road = mix_of({"name": "fine", "sam": {"weights": "none.pth"}})
    values = road.model_dump()
    values["model"]["fusion"] = {"type": "blend"}
    blended = RoadConfig.model_validate(values)
    for given, told in ((road, []), (blended, ["'blend' does not read tower fine"])):
        caplog.clear()
        with pytest.raises(CheckpointError, match="do not exist"):
            bootstrap.run(workspace=Workspace.open(tmp_path / "ws"), road=given, dataset="images")
        assert len(caplog.messages) == len(told)
        assert all(part in caplog.text for part in told)
