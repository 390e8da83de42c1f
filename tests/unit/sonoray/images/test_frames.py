import numpy as np
import pytest

from sonoray.images.decode import ImageLimits
from sonoray.images.frames import choose_by_change, shrink, spread, spread_in_time
from sonoray.ingest.dicom.containers import BytesEntry
from sonoray.ingest.dicom.dicom_config import DicomConfig
from sonoray.ingest.dicom.objects import decode_object
from sonoray.ingest.dicom.pixels import FrameReader


def test_frames_are_the_middles_of_equal_stretches():
    assert spread(30, 3) == (5, 15, 25)
    assert spread(3, 8) == (0, 1, 2)
    assert spread(5, 1) == (2,)
    for count in range(1, 40):
        for wanted in range(1, 10):
            chosen = spread(count, wanted)
            assert len(set(chosen)) == min(count, wanted)
            assert set(chosen) <= set(range(count))


@pytest.mark.parametrize("step", [1, 3, 1001])
def test_a_constant_rate_gives_what_counting_gives(step):
    for count in range(1, 40):
        starts = [7 + step * number for number in range(count)]
        for wanted in range(1, 10):
            assert spread_in_time(starts, wanted) == spread(count, wanted)
            assert spread_in_time(starts, wanted, last=step) == spread(count, wanted)


def test_time_is_shared_equally():
    slow_then_fast = [0, 100, 200, 300, 400, *range(500, 600, 10)]
    assert spread_in_time(slow_then_fast, 3) == (1, 3, 5)  # at 102, 305 and 508
    assert spread_in_time(slow_then_fast, 3, last=600) == (
        1,
        13,
        14,
    )  # twice the last
    assert spread_in_time([0, 10, 20, 30, 40, 50], 2, last=950) == (4, 5)  # a frozen end
    assert spread_in_time([0, 1000, 1010, 1020, 1030], 3) == (0, 1, 2)  # a frozen beginning
    assert spread_in_time([5, 9], 3) == (0, 1)


@pytest.mark.parametrize(
    "starts", [[None] * 6, [0, 10, None, 30, 40, 50], [0, 10, 5, 30, 40, 50], [3] * 6]
)
def test_without_times_frames_are_counted(starts):
    assert spread_in_time(starts, 2) == spread(6, 2) == (1, 4)


def test_change_is_shared_equally():
    still = np.zeros((10, 32, 32), np.float32)
    moving = np.repeat(np.arange(1, 11, dtype=np.float32)[:, None, None] * 10, 32, 1).repeat(32, 2)
    chosen = choose_by_change(np.concatenate([still, moving]), 4)
    assert len(chosen) == 4
    assert sum(position >= 9 for position in chosen) == 4
    assert np.ptp(np.diff(chosen)) <= 1
    assert choose_by_change(still, 4) == (5,)
    assert choose_by_change(still[:3], 4) == (0, 1, 2)


def test_shrinking_averages_boxes():
    frame = np.kron(np.arange(32, dtype=np.uint8)[None], np.ones((64, 2), np.uint8))
    np.testing.assert_allclose(shrink(frame), np.tile(np.arange(32), (32, 1)), atol=1)


@pytest.mark.parametrize(
    ("sampling", "expected"), [("uniform", [2, 7]), ("change", [5, 8])], ids=str
)
def test_frames_keep_their_place_in_the_loop(make_object, monkeypatch, sampling, expected):
    """Ten frames: five still ones, five that grow brighter."""
    levels = np.array([10, 10, 10, 10, 10, 50, 90, 130, 170, 210], np.uint8)
    loop = np.broadcast_to(levels[:, None, None], (10, 20, 20))
    read = []
    original = FrameReader.read

    def count(reader, index):
        read.append(index)
        return original(reader, index)

    monkeypatch.setattr(FrameReader, "read", count)
    config = DicomConfig.model_validate({"frames": {"sampling": sampling, "max_frames": 2}})
    entry = BytesEntry(ref="x", data=make_object(loop), max_bytes=10**6)
    frames = decode_object(entry, config, ImageLimits()).frames
    assert [frame.index for frame in frames] == expected
    assert [int(frame.pixels[0, 0]) for frame in frames] == list(levels[expected])
    if sampling == "uniform":
        assert read == expected  # nothing else is decoded
