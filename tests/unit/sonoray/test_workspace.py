import shutil

import pytest

from sonoray.errors import DataError
from sonoray.stages import Stage, run_stage
from sonoray.workspace import Workspace


def output(workspace, seed):
    stage = Stage(name="ingest-x", config={"seed": seed})
    return run_stage(stage, workspace.stages, lambda folder: {"seed": seed})


def test_a_dataset_points_to_the_latest_output(tmp_path):
    workspace = Workspace.open(tmp_path / "deep" / "ws")
    for seed in (1, 2):
        workspace.point_dataset("x", output(workspace, seed))
    found = Workspace.open(tmp_path / "deep" / "ws").dataset("x")
    assert found.manifest["summary"] == {"seed": 2}
    assert found.path == output(workspace, 2).path
    assert workspace.dataset_names() == ["x"]


def test_a_workspace_that_was_copied_in_part_says_what_it_lacks(tmp_path):
    workspace = Workspace.open(tmp_path / "ws")
    made = output(workspace, 1)
    workspace.point_dataset("kidney", made)
    (tmp_path / "ws").rename(tmp_path / "moved")
    moved = Workspace.open(tmp_path / "moved")
    assert moved.dataset("kidney").manifest == made.manifest
    shutil.rmtree(moved.stages)
    with pytest.raises(DataError, match=r"which is gone: .* --name kidney"):
        moved.dataset("kidney")


def test_an_unknown_dataset_lists_the_known_ones(tmp_path):
    workspace = Workspace.open(tmp_path)
    with pytest.raises(DataError, match="none yet"):
        workspace.dataset("y")
    workspace.point_dataset("x", output(workspace, 1))
    with pytest.raises(DataError, match=r"no dataset 'y'.*there: x"):
        workspace.dataset("y")


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("phantom", "phantom"),
        ("busbra", "busbra PATH"),
        ("dicomweb", "dicomweb URL"),
        ("kidney", "SOURCE PATH --name kidney"),
        ("kidney.2024", "SOURCE PATH --name kidney.2024"),
    ],
)
def test_the_command_that_makes_a_dataset_is_one_that_ingest_takes(tmp_path, name, command):
    with pytest.raises(DataError, match=rf"run: sonoray ingest {command}$"):
        Workspace.open(tmp_path).dataset(name)


def test_a_file_is_no_workspace(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="--workspace"):
        Workspace.open(tmp_path / "file")


def test_all_paths_are_absolute_and_inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    workspace = Workspace.open()
    for path in (workspace.stages, workspace.features, workspace.runs):
        assert path.is_absolute()
        assert path.is_relative_to(tmp_path)


@pytest.mark.parametrize(
    ("origin", "expected"),
    [({"source": "phantom"}, True), ({"source": "table", "path": "phantom"}, False), (None, False)],
)
def test_a_dataset_is_synthetic_where_its_origin_says_so(tmp_path, origin, expected):
    workspace = Workspace.open(tmp_path)
    for name in ("phantom", "phantom-arm", "kidney"):
        workspace.point_dataset(name, output(workspace, 1), origin)
        assert workspace.is_synthetic(name) == expected
