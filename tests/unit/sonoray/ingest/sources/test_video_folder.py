import os
import struct

import av
import numpy as np
import pytest

from sonoray.digests.code import code_modules
from sonoray.errors import DataError
from sonoray.images.decode import RejectedImageError
from sonoray.images.video import VideoConfig, read_frames
from sonoray.ingest.sources.video_folder import VideoSource

STEP = 8


def write_video(path, codec="ffv1", pixel_format="bgr0", values=range(0, 240, STEP)):
    """Frames of one grey each, 10 a second; ffv1 is lossless."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixel_format
        for value in values:
            pixels = np.full((48, 64, 3), value, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            container.mux(stream.encode(frame.reformat(format=pixel_format)))
        container.mux(stream.encode())
    return path


def levels(frames):
    return [(position, int(pixels[0, 0, 0])) for position, pixels in frames]


def test_frames_are_the_middles_of_equal_stretches(tmp_path):
    frames = read_frames(write_video(tmp_path / "a.avi"), VideoConfig(max_frames=5))
    assert levels(frames) == [(n, n * STEP) for n in (3, 9, 15, 21, 27)]
    assert {(pixels.shape, str(pixels.dtype)) for _, pixels in frames} == {((48, 64, 3), "uint8")}


def test_frames_by_change_leave_a_still_stretch_alone(tmp_path):
    still_then_moving = [0] * 20 + list(range(0, 200, 20))
    path = write_video(tmp_path / "a.avi", values=still_then_moving)
    frames = read_frames(path, VideoConfig(max_frames=3, sampling="change"))
    assert len(frames) == 3
    assert all(position >= 20 for position, _ in frames)
    uniform = read_frames(path, VideoConfig(max_frames=3))
    assert [position for position, _ in uniform] == [5, 15, 25]


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"),
    [("a.mp4", "mpeg4", "yuv420p"), ("a.gif", "gif", "rgb8"), ("a.mkv", "libx264", "yuv420p")],
)
def test_other_formats_give_the_same_frames(tmp_path, name, codec, pixel_format):
    path = write_video(tmp_path / name, codec, pixel_format)
    frames = levels(read_frames(path, VideoConfig(max_frames=3)))
    assert [position for position, _ in frames] == [5, 15, 25]
    assert [level for _, level in frames] == pytest.approx([40, 120, 200], abs=24)


@pytest.mark.parametrize(
    ("matrix", "show"),
    [
        ((1, 0, 0, 1), lambda stored: stored),
        ((0, 1, -1, 0), lambda stored: np.rot90(stored, -1)),  # a phone held upright: clockwise
        ((-1, 0, 0, -1), lambda stored: np.rot90(stored, 2)),
        ((0, -1, 1, 0), lambda stored: np.rot90(stored, 1)),
        ((-1, 0, 0, 1), np.fliplr),
        ((0, 1, 1, 0), lambda stored: stored.swapaxes(0, 1)),
    ],
)
def test_frames_are_shown_as_the_display_matrix_says(tmp_path, matrix, show):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        pixels = np.zeros((48, 64, 3), np.uint8)
        pixels[:24, :32] = 200
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    (_, stored), *_ = read_frames(path, VideoConfig())
    data = path.read_bytes()

    def track_matrix(a, b, c, d):  # 16.16 fixed point, the third column 2.30
        return struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)

    track = data.index(b"tkhd")
    place = data.index(track_matrix(1, 0, 0, 1), track)
    path.write_bytes(data[:place] + track_matrix(*matrix) + data[place + 36 :])
    (_, shown), *_ = read_frames(path, VideoConfig())
    np.testing.assert_array_equal(shown, show(stored))
    assert stored[:20, :28].min() > 150 > 50 > stored[28:, 36:].max()


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"max_bytes": 100}, "too_many_bytes"),
        ({"max_pixels": 1000}, "too_many_pixels"),
        ({"max_pixels": 10}, "unreadable"),
        ({"max_length": 29}, "too_many_frames"),
        ({"max_duration_s": 2.5}, "too_long"),
    ],
)
def test_a_video_over_a_limit_is_refused(tmp_path, limits, reason):
    path = write_video(tmp_path / "a.avi")
    with pytest.raises(RejectedImageError) as caught:
        read_frames(path, VideoConfig(**limits))
    assert caught.value.reason == reason


def test_a_playlist_called_video_opens_nothing(tmp_path):
    write_video(tmp_path / "secret.avi")
    playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.avi\n#EXT-X-ENDLIST\n"
    for text in (playlist, "ffconcat version 1.0\nfile secret.avi\n", "text", ""):
        (tmp_path / "a.mp4").write_text(text)
        with pytest.raises(RejectedImageError) as caught:
            read_frames(tmp_path / "a.mp4", VideoConfig())
        assert caught.value.reason == ("unreadable" if text else "empty_file")


def test_a_file_that_went_is_not_called_damaged(tmp_path):
    with pytest.raises(RejectedImageError, match=r"^unreadable_file: .* \(No such file"):
        read_frames(tmp_path / "a.avi", VideoConfig())


def test_a_header_that_lies_about_its_size_is_refused(tmp_path):
    path = write_video(tmp_path / "a.gif", "gif", "rgb8")
    data = bytearray(path.read_bytes())
    data[6:10] = b"\xff\xff\xff\xff"  # 65,535 x 65,535
    path.write_bytes(data)
    with pytest.raises(RejectedImageError, match=r"unreadable|too_many_pixels"):
        read_frames(path, VideoConfig())


def test_the_patient_is_the_folder_or_what_the_table_says(tmp_path, summary_of):
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
    whole = VideoSource(root, config=VideoConfig(study="folder"))
    problems = {study.ref: study.problem[:10] for study in whole.iter_studies()}
    assert problems["p1"] == ""
    assert problems["p1/day"] == ""
    (root / "patients.csv").write_text("file,patient\np1/day/b.avi,\n")
    emptied = {study.ref: study for study in VideoSource(root).iter_studies()}
    assert emptied["p1/day/b.avi"].problem.startswith("no_patient:")
    assert emptied["p1/a.avi"].patient_ref == "p1"


def test_what_cannot_be_seen_is_counted_and_names_may_be_of_any_encoding(tmp_path, summary_of):
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


def test_a_folder_without_videos_is_one_clear_error(tmp_path):
    with pytest.raises(DataError, match="holds no video; expected are"):
        VideoSource(tmp_path)
    with pytest.raises(DataError, match="no folder"):
        VideoSource(tmp_path / "none")
    (tmp_path / "gone.avi").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match="1 files or folders in it cannot be read"):
        VideoSource(tmp_path)


def test_what_decodes_frames_is_in_the_code_of_the_sources_that_read_videos():
    decoding = {"sonoray.images.video", "sonoray.images.frames", "sonoray.ingest.sources.cine"}
    for source in ("video_folder", "table"):
        assert decoding <= set(code_modules(f"sonoray.ingest.sources.{source}"))


@pytest.mark.parametrize("raised", [{"worker_memory_bytes": 10**10}, {"worker_timeout_s": 900}])
def test_a_raised_limit_of_the_decoding_processes_makes_another_dataset(tmp_path, raised):
    write_video(tmp_path / "p1" / "a.avi", values=[10])
    assert VideoSource(tmp_path, config=VideoConfig(**raised)).config() != (
        VideoSource(tmp_path).config()
    )
