import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sonoray.errors import DataError
from sonoray.phantom import PhantomConfig
from sonoray.workspace import Workspace
from sonoray_jobs.data import phantom
from sonoray_jobs.road.config import RoadConfig

ROAD = RoadConfig(phantom=PhantomConfig(num_patients=40, images=(2, 3), image_size=64))


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    workspace = Workspace.open(tmp_path_factory.mktemp("workspace"))
    return phantom.run(workspace=workspace, road=ROAD)


def test_the_sheet_has_a_row_per_organ_and_a_column_per_kind(samples):
    with Image.open(samples.sheet) as sheet:
        assert sheet.size == (5 * 64, 3 * (64 + 16))
        assert np.asarray(sheet.convert("L")).std() > 20


def test_examples_hold_images_masks_and_truth(samples):
    assert len(samples.examples) == 6
    for folder in map(Path, samples.examples):
        truth = json.loads((folder / "study.json").read_text(encoding="utf-8"))
        assert truth["turns"][0]["topic"] == "report"
        assert 2 <= len(truth["images"]) <= 3
        for entry in truth["images"]:
            with Image.open(folder / entry["mask"]) as mask:
                shows = bool(np.asarray(mask).any())
            assert shows == (entry["labels"]["shows_finding"] == "1")
            with Image.open(folder / entry["image"]) as image:
                assert image.size == (64, 64)


def test_the_result_speaks_and_serialises(samples):
    assert samples.studies == 40
    assert samples.sheet in samples.lines()[0]
    assert 0.5 <= samples.constant_answers["pathology"] < 0.8
    assert json.loads(json.dumps(samples.to_json()))["studies"] == 40


def test_out_names_another_folder(tmp_path):
    result = phantom.run(
        workspace=Workspace.open(tmp_path / "ws"), road=ROAD, out=tmp_path / "here"
    )
    assert result.folder == str(tmp_path / "here")
    assert (tmp_path / "here" / "contact_sheet.png").is_file()


def test_an_unusable_folder_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=r"file.*--out"):
        phantom.run(workspace=Workspace.open(tmp_path / "ws"), road=ROAD, out=tmp_path / "file")
