import os
from fractions import Fraction

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from sonoray.digests.code import code_modules
from sonoray.errors import DataError
from sonoray.images.video import VideoConfig
from sonoray.ingest.sources.video_folder import VideoSource


def test_the_patient_is_the_folder_or_what_the_table_says(tmp_path, write_video, summary_of):
    root = tmp_path / "loops"
    for number, file in enumerate(("p1/a.avi", "p1/day/b.avi", "p2/c.avi", "d.avi")):
        write_video(root / file, values=[number * 40 + 10, number * 40 + 20])
    (root / "p2" / "notes.txt").write_text("x")
    (root / "p2" / "e.mp4").write_bytes(b"no video")
    source = VideoSource(root, name="lab")
    studies = {study.ref: study for study in source.iter_studies()}
    assert len(source) == len(studies) == 6
    assert [studies[f].patient_ref for f in ("p1/a.avi", "p1/day/b.avi")] == ["p1", "p1"]
    assert [image.frame_index for image in studies["p1/a.avi"].images] == [0, 1]
    assert studies["d.avi"].problem.startswith("no_patient:")
    summary = summary_of(source)
    assert summary["studies"] == {"seen": 6, "kept": 3, "duplicate": 0, "quarantined": 3}
    assert summary["reasons"] == {
        "empty_study": 1, "no_patient": 1, "study_rejected": 2, "unknown_file": 1, "unreadable": 1,
    }  # fmt: skip
    (root / "patients.csv").write_text("file,patient\nd.avi,p9\np1/a.avi,p9\ngone.avi,p1\n")
    listed = {study.ref: study for study in VideoSource(root).iter_studies()}
    assert listed["d.avi"].patient_ref == listed["p1/a.avi"].patient_ref == "p9"
    folders = {file: listed[file].patient_ref for file in ("p1/day/b.avi", "p2/c.avi")}
    assert folders == {"p1/day/b.avi": "p1", "p2/c.avi": "p2"}  # as they are not in the table
    assert listed["patients.csv:4"].problem.startswith("missing_file:")
    assert listed["patients.csv:4"].is_row
    whole = VideoSource(root, config=VideoConfig(study="folder"))
    problems = {study.ref: study.problem[:10] for study in whole.iter_studies()}
    assert problems["p1"] == ""
    assert problems["p1/day"] == ""
    (root / "patients.csv").write_text("file,patient\np1/day/b.avi,\n")
    emptied = {study.ref: study for study in VideoSource(root).iter_studies()}
    assert emptied["p1/day/b.avi"].problem.startswith("no_patient:")
    assert emptied["p1/a.avi"].patient_ref == "p1"


def test_a_patient_that_a_spreadsheet_changed_is_none(tmp_path, write_video):
    for name in ("p1/a.avi", "p1/b.avi", "p1/c.avi"):
        write_video(tmp_path / name, values=[10, 20])
    rows = "p1/a.avi,4.40106E+17\np1/b.avi,4.40106E+17\n"
    (tmp_path / "patients.csv").write_text(f"file,patient\n{rows}")
    studies = {study.ref: study for study in VideoSource(tmp_path).iter_studies()}
    for line, name in ((2, "p1/a.avi"), (3, "p1/b.avi")):
        problem = studies[f"patients.csv:{line}"].problem
        assert problem.startswith(f"rounded_identifier: line {line}, column patient has a number")
        assert studies[name].problem.startswith("no_patient:")
    assert (studies["p1/c.avi"].patient_ref, studies["p1/c.avi"].problem) == ("p1", "")


def test_what_cannot_be_seen_is_counted_and_names_may_be_of_any_encoding(
    tmp_path, write_video, summary_of
):
    root, name = tmp_path / "loops", os.fsdecode("颈动脉.avi".encode("gbk"))
    write_video(root / "p1" / name, values=[10, 20])
    write_video(tmp_path / "volume" / "b.avi", values=[50, 60])
    (root / "p2").symlink_to(tmp_path / "volume")
    (root / "p1" / "gone.avi").symlink_to(tmp_path / "nowhere.avi")
    source = VideoSource(root)
    studies = {study.ref: study for study in source.iter_studies()}
    readable = r"p1/\xbe\xb1\xb6\xaf\xc2\xf6.avi"
    assert list(studies) == [readable, "p2/b.avi", "p1/gone.avi"]
    assert studies[readable].patient_ref == "p1"
    assert studies["p1/gone.avi"].problem.startswith("unreadable_file:")
    summary = summary_of(source)
    assert summary["studies"] == {"seen": 3, "kept": 2, "duplicate": 0, "quarantined": 1}
    assert summary["reasons"] == {"unreadable_file": 1}
    before = source.input_digest()
    (root / "notes.txt").write_text("x")
    assert VideoSource(root).input_digest() != before


def test_what_is_done_to_videos_is_counted(tmp_path, write_video, summary_of):
    for number, aspect in enumerate((Fraction(32, 11), Fraction(32, 11), None)):
        path = tmp_path / "loops" / f"p{number}" / "a.mp4"
        values = [10 * number + 20, 10 * number + 24]
        write_video(path, "libx264", "yuv420p", values=values, aspect=aspect)
    remarks = summary_of(VideoSource(tmp_path / "loops"))["remarks"]
    assert remarks == {"video: pixels were made square": 2}


def test_a_folder_without_videos_is_one_clear_error(tmp_path):
    with pytest.raises(DataError, match="holds no video; expected are"):
        VideoSource(tmp_path)
    with pytest.raises(DataError, match="no folder"):
        VideoSource(tmp_path / "none")
    (tmp_path / "gone.avi").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match="1 files or folders in it cannot be read"):
        VideoSource(tmp_path)


def test_what_decodes_frames_is_in_the_code_of_the_sources_that_read_videos():
    decoding = {f"sonoray.images.{name}" for name in ("video", "frames", "boxes.volumes")}
    decoding |= {"sonoray.images.boxes.hdf5", "sonoray.ingest.sources.cine"}
    for source in ("video_folder", "table"):
        assert decoding <= set(code_modules(f"sonoray.ingest.sources.{source}"))


@pytest.mark.parametrize("raised", [{"worker_memory_bytes": 10**10}, {"worker_timeout_s": 900}])
def test_a_raised_limit_of_the_decoding_processes_makes_another_dataset(
    tmp_path, write_video, raised
):
    write_video(tmp_path / "p1" / "a.avi", values=[10])
    assert VideoSource(tmp_path, config=VideoConfig(**raised)).config() != (
        VideoSource(tmp_path).config()
    )


def test_series_and_sequences_are_loops(tmp_path, summary_of):
    """A folder of numbered pictures is called as it is; a header brings its data along."""
    root = tmp_path / "loops"
    ramp = np.add.outer(np.arange(40), np.arange(48)).astype(np.uint8)
    (root / "p1" / "sweep").mkdir(parents=True)
    for number in (1, 2, 10):
        data = b"P5 48 40 255\n" + (ramp + 10 * number).tobytes()
        (root / "p1" / "sweep" / f"{number}.pgm").write_bytes(data)
    (root / "p2").mkdir()
    image = sitk.GetImageFromArray(np.stack([ramp, ramp + 100]))
    sitk.WriteImage(image, str(root / "p2" / "a.mhd"))
    sitk.WriteImage(image, str(root / "p2" / "b.nii.gz"))
    source = VideoSource(root)
    studies = {study.ref: study for study in source.iter_studies()}
    assert list(studies) == ["p1/sweep", "p2/a.mhd", "p2/b.nii.gz"]
    assert [study.patient_ref for study in studies.values()] == ["p1", "p2", "p2"]
    series = studies["p1/sweep"].images
    assert [image.ref for image in series] == ["p1/sweep", "p1/sweep#1", "p1/sweep#2"]
    assert [int(image.data[0, 0]) for image in series] == [10, 20, 100]
    summary = summary_of(source)
    # both files of p2 show the same
    assert summary["studies"] == {"seen": 3, "kept": 2, "duplicate": 1, "quarantined": 0}
    before = source.input_digest()
    (root / "p2" / "a.raw").write_bytes(np.stack([ramp, ramp + 50]).tobytes())
    assert VideoSource(root).input_digest() != before
    whole = VideoSource(root, config=VideoConfig(study="folder"))
    assert [study.ref for study in whole.iter_studies()] == ["p1/sweep", "p2"]
