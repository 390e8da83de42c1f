import numpy as np
import pytest
from PIL import Image

from sonoray.errors import DataError
from sonoray.images.decode import ImageLimits
from sonoray.ingest.builders import build_source
from sonoray.ingest.published.busi import BusiSource
from sonoray.ingest.source_options import SourceOptions
from sonoray.study.contract import Task
from sonoray_jobs.road.config import RoadConfig


def write_mask(path, rows, size=(48, 40)):
    mask = np.zeros(size, np.uint8)
    mask[rows] = 255
    Image.fromarray(mask).save(path)


@pytest.fixture
def folder(tmp_path, picture):
    root = tmp_path / "busi"
    for seed, kind in enumerate(("benign", "malignant", "normal")):
        picture(root / kind / f"{kind} (1).png", seed)
        write_mask(root / kind / f"{kind} (1)_mask.png", slice(2, 5))
    return root


def test_an_image_is_a_study_and_its_masks_are_merged(folder):
    write_mask(folder / "benign" / "benign (1)_mask_1.png", slice(20, 30))
    studies = list(BusiSource(folder).iter_studies())
    assert [study.ref for study in studies] == [
        "benign/benign (1).png",
        "malignant/malignant (1).png",
        "normal/normal (1).png",
    ]
    assert [study.turns[0].answer for study in studies] == ["良性", "恶性", "正常"]
    assert studies[0].turns[0].task is Task.CLOSED
    assert studies[0].labels == {"pathology": "benign", "site": "乳腺"}
    merged = studies[0].images[0].mask
    assert list(np.flatnonzero(merged[:, 0] == 255)) == [2, 3, 4, *range(20, 30)]
    assert set(np.unique(merged)) == {0, 255}
    single = np.asarray(Image.open(studies[1].images[0].mask))
    assert list(np.flatnonzero(single[:, 0])) == [2, 3, 4]


def test_masks_that_are_merged_are_read_within_the_limits_that_were_set(folder):
    write_mask(folder / "benign" / "benign (1)_mask_1.png", slice(20, 30))
    limits = ImageLimits(max_bytes=50)
    (image, *_) = (study.images[0] for study in BusiSource(folder, limits=limits).iter_studies())
    assert image.problem.startswith("bad_mask: too_many_bytes: ")
    assert "at most 50" in image.problem
    road = RoadConfig.model_validate({"ingest": {"images": {"max_bytes": 50}}})
    built = build_source("busi", SourceOptions(path=folder), road)
    assert next(built.iter_studies()).images[0].problem == image.problem


def test_what_is_wrong_is_counted_with_its_reason(folder, summary_of):
    write_mask(folder / "benign" / "benign (1)_mask_1.png", slice(2, 3), size=(9, 9))
    write_mask(folder / "benign" / "benign (2)_mask.png", slice(2, 3))
    (folder / "normal" / "notes.txt").write_text("x")
    (folder / "normal" / "normal (2).png").write_bytes(b"")
    source = BusiSource(folder)
    summary = summary_of(source)
    assert len(source) == summary["studies"]["seen"] == 6
    assert summary["studies"]["kept"] == 2
    assert summary["reasons"] == {
        "bad_mask": 1, "empty_file": 1, "empty_study": 2, "missing_file": 1, "unknown_file": 1,
    }  # fmt: skip


def test_a_folder_that_is_none_is_one_clear_error(tmp_path):
    with pytest.raises(DataError, match="lacks normal, benign, malignant; give the one"):
        BusiSource(tmp_path)
    for kind in ("benign", "malignant", "normal"):
        (tmp_path / kind).mkdir()
    with pytest.raises(DataError, match="holds no image"):
        BusiSource(tmp_path)


def test_the_real_images_go_in_whole(shared_data, summary_of):
    summary = summary_of(BusiSource(shared_data("busi")))
    assert summary["studies"] == {"seen": 77, "kept": 77, "duplicate": 0, "quarantined": 0}
    assert summary["images"]["kept"] == 77
    assert summary["near_duplicates"] == {"groups": 11, "patients": 23}
