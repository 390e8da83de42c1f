import json
from pathlib import Path

import pytest

from sonoray.errors import ConfigError, DataError
from sonoray.workspace import Workspace
from sonoray_jobs.ingest import SOURCES, build_source, run
from sonoray_jobs.road import RoadConfig

ROAD = RoadConfig.model_validate({"phantom": {"num_patients": 4}})


def test_every_listed_source_can_be_built(tmp_path):
    with pytest.raises(DataError, match="no BUS-BRA table"):
        build_source("busbra", tmp_path, ROAD)
    assert build_source("phantom", None, ROAD).name == "phantom"
    assert build_source("dicom", tmp_path, ROAD).name == "dicom"
    assert build_source("dicom", tmp_path, ROAD, name="kidney").name == "kidney"
    assert set(SOURCES) == {"busbra", "dicom", "phantom"}


@pytest.mark.parametrize(
    ("name", "path", "message"),
    [
        ("slake", None, "'slake' is unknown; use one of busbra, dicom, phantom"),
        ("busbra", None, "run: sonoray ingest busbra PATH"),
        ("phantom", Path("folder"), "'phantom' reads no files; leave 'folder' out"),
    ],
)
def test_a_wrong_source_is_named_with_its_fix(name, path, message):
    with pytest.raises(ConfigError, match=message):
        build_source(name, path, ROAD)


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("busbra", {"name": "mine"}, "'busbra' takes no --name; leave 'mine' out"),
        ("busbra", {"reports": Path("r.csv")}, "takes no --reports; leave 'r.csv' out"),
        ("dicom", {"name": "../up"}, "'../up' does not fit a file name"),
        ("dicom", {"name": "phantom"}, "'phantom' is the name of another source"),
    ],
)
def test_a_wrong_argument_is_named_with_its_fix(tmp_path, kind, arguments, message):
    with pytest.raises(ConfigError, match=message):
        build_source(kind, tmp_path, ROAD, **arguments)


def test_the_phantom_goes_in_and_a_second_time_nothing_is_done(tmp_path):
    workspace = Workspace.open(tmp_path)
    first = run(workspace=workspace, road=ROAD, dataset="phantom")
    second = run(workspace=workspace, road=ROAD, dataset="phantom")
    assert (first.reused, second.reused) == (False, True)
    assert first.studies == second.studies
    assert first.studies.kept == sum(sizes["studies"] for sizes in first.splits.values()) > 0
    assert workspace.dataset("phantom").path == tmp_path / "stages" / first.path.rsplit("/")[-1]
    report = "\n".join(second.lines())
    kept = first.images.kept
    assert "unchanged" in report
    assert f"images: {kept} seen = {kept} kept + 0 duplicate + 0 quarantined" in report
    assert json.loads(json.dumps(first.to_json()))["images"]["kept"] == kept
