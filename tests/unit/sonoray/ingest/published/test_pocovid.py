import csv
import json

import pytest

from sonoray.errors import ConfigError, DataError
from sonoray.ingest.published.pocovid import PocovidSource

COLUMNS = ("Filename", "Label", "Type", "Probe", "Patient ID / Name", "Gender", "Age", "InThisRepo")
GOOD = ("Reg_1", "regular", "video", "convex", "4.0", "m", "27", "Yes")


def write(folder, *rows, columns=COLUMNS):
    folder.mkdir(exist_ok=True)
    with (folder / "metadata_dev.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])


@pytest.fixture
def folder(tmp_path, picture):
    root = tmp_path / "pocovid"
    write(root, GOOD)
    for number in (0, 13, 104):
        picture(root / "image_dataset" / "regular" / f"Reg_1.mov_frame{number}.jpg", number)
    return root


def test_the_frames_of_a_video_are_one_study_in_their_order(folder):
    (study,) = PocovidSource(folder).iter_studies()
    assert (study.ref, study.patient_ref, study.problem) == ("regular/Reg_1.mov", "4", "")
    assert [image.frame_index for image in study.images] == [0, 13, 104]
    assert study.turns[0].answer == "正常"
    assert study.labels == {
        "class": "regular", "site": "肺", "probe": "convex", "recording": "video",
        "sex": "male", "age": "27",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("file", "rows", "reason"),
    [
        ("covid/Cov_1.png", [], "no_row"),
        ("covid/Cov_1.mov_frame3.jpg", [("Cov", "COVID-19", "video")], "no_row"),
        ("covid/Cov_1.png", [("Cov_1", "COVID-19", "Image")] * 2, "ambiguous_row"),
        ("covid/Cov_1.png", [("Cov_1", "regular", "image")], "conflicting_rows"),
        ("covid/Cov_1.png", [("Cov_1", "COVID-19", "video")], "conflicting_rows"),
        ("covid/Cov_1.mp4_frame0.png", [("Cov_1", "COVID-19", "image")], "conflicting_rows"),
        ("viral/Vir_1.png", [("Vir_1", "Viral pneumonia", "image")], "unknown_value"),
        ("covid/Cov_1.png", [("Cov_1", "COVID-19", "image", "convex", "")], "no_patient"),
    ],
)
def test_what_cannot_be_mapped_is_quarantined_and_not_guessed(
    folder, picture, summary_of, file, rows, reason
):
    picture(folder / "image_dataset" / file, 7)
    full = [
        (*row, "convex", "9", "w", "", "Yes")[:8] if len(row) == 3 else (*row, "w", "", "No")
        for row in rows
    ]
    write(folder, GOOD, *full)
    summary = summary_of(PocovidSource(folder))
    missing = {"missing_file": 1} if rows and rows[0][0] == "Cov" else {}
    assert summary["reasons"] == {reason: 1, "study_rejected": 1, **missing}
    assert summary["studies"]["kept"] == 1


def test_two_recordings_of_one_row_are_both_quarantined(folder, picture, summary_of):
    write(folder, GOOD, ("Reg_2", *GOOD[1:]))
    for seed, name in enumerate(["Reg_2.mp4_frame0", "Reg_2.mov_frame0"]):
        picture(folder / "image_dataset" / "regular" / f"{name}.jpg", seed + 200)
    assert summary_of(PocovidSource(folder))["reasons"] == {"ambiguous_row": 2, "study_rejected": 2}


def test_rows_without_frames_count_unless_the_set_leaves_them_out(folder, summary_of):
    write(folder, GOOD, ("Gone", *GOOD[1:]), ("Elsewhere", *GOOD[1:-1], "No"), ("short",))
    source = PocovidSource(folder)
    assert len(source) == 3
    summary = summary_of(source)
    assert summary["reasons"] == {"missing_file": 1, "malformed_row": 1}
    assert summary["rows"] == 2
    assert summary["studies"] == {"seen": 1, "kept": 1, "duplicate": 0, "quarantined": 0}


FOLDS = {
    "0": {"train": [["Reg_1.mov"], ["reg"]], "test": [["Reg_2.mov"], ["reg"]]},
    "1": {"train": [["Reg_2.mov"], ["reg"]], "test": [["Reg_1.mov"], ["reg"]]},
}


def test_the_published_folds_are_taken_and_what_they_do_not_name_is_quarantined(
    folder, picture, summary_of
):
    write(folder, GOOD, ("Reg_2", *GOOD[1:]), ("Reg_3", *GOOD[1:]))
    for seed, name in enumerate(["Reg_2.mov_frame0", "Reg_3.mov_frame0"]):
        picture(folder / "image_dataset" / "regular" / f"{name}.jpg", seed + 300)
    with pytest.raises(DataError, match=r"no file .*cross_val\.json"):
        PocovidSource(folder, split="published")
    (folder / "cross_val.json").write_text(json.dumps(FOLDS))

    def splits(split):
        found = PocovidSource(folder, split=split).iter_studies()
        return {study.ref[8:]: study.split or study.problem[:8] for study in found}

    assert splits("published") == splits("published:0") == {
        "Reg_1.mov": "train", "Reg_2.mov": "test", "Reg_3.mov": "no_split",
    }  # fmt: skip
    assert splits("published:1")["Reg_1.mov"] == "test"
    assert splits(None) == dict.fromkeys(["Reg_1.mov", "Reg_2.mov", "Reg_3.mov"], "")
    summary = summary_of(PocovidSource(folder, split="published"))
    assert summary["splits"]["test"]["studies"] == 1
    assert summary["parted"] == {"groups": 1, "patients": 1}  # both videos are of one patient
    for split, message in (("published:7", "has no such fold; it has 0, 1"), ("mine", "is none")):
        with pytest.raises(ConfigError, match=message):
            PocovidSource(folder, split=split)
    (folder / "cross_val.json").write_text('{"0": {"train": [], "test": []}}')
    with pytest.raises(DataError, match="holds no folds"):
        PocovidSource(folder, split="published")


def test_a_folder_that_is_none_is_one_clear_error(tmp_path):
    with pytest.raises(DataError, match=r"no table dataset_metadata\.csv or metadata_dev\.csv"):
        PocovidSource(tmp_path)
    write(tmp_path, GOOD)
    with pytest.raises(DataError, match="no frames in"):
        PocovidSource(tmp_path)


def test_the_real_frames_are_mapped_in_full(shared_data, summary_of):
    source = PocovidSource(shared_data("pocovid"))
    summary = summary_of(source)
    assert summary["studies"] == {"seen": 22, "kept": 22, "duplicate": 0, "quarantined": 0}
    assert summary["images"]["kept"] == 117
    assert len({study.patient_ref for study in source.iter_studies()}) == 8
