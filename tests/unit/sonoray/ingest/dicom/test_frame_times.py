import numpy as np
import pytest
from pydicom.dataset import Dataset

from sonoray.images.decode import ImageLimits, RejectedImageError
from sonoray.ingest.dicom.containers import BytesEntry
from sonoray.ingest.dicom.dicom_config import DicomConfig
from sonoray.ingest.dicom.frame_times import (
    LEFT_OUT,
    ODD_TIMES,
    ODD_TRIM,
    describe_times,
    find_shown,
    find_starts,
)
from sonoray.ingest.dicom.objects import decode_object

LIMITS = ImageLimits()


@pytest.fixture
def indices_of(make_object):
    """Decode a loop of frames `0, 8, 16, ...`; the positions of those that are taken."""

    def decode(count=30, *, limits=None, sampling="uniform", max_frames=5, **attributes):
        loop = np.broadcast_to(
            np.arange(0, 8 * count, 8, dtype=np.uint8)[:, None, None], (count, 40, 48)
        )
        data = make_object(loop, **attributes)
        config = DicomConfig.model_validate(
            {"frames": {"max_frames": max_frames, "sampling": sampling}, "limits": limits or {}}
        )
        frames = decode_object(
            BytesEntry(ref="x", data=data, max_bytes=10**6), config, LIMITS
        ).frames
        assert [int(frame.pixels[0, 0]) for frame in frames] == [
            8 * frame.index for frame in frames
        ]
        return [frame.index for frame in frames]

    return decode


def test_evenly_means_in_time(indices_of):
    """Twenty frames within 0.2 s, then one a second."""
    steps = [0, *[10] * 19, *[1000] * 10]
    assert indices_of() == [3, 9, 15, 21, 27]
    assert indices_of(FrameTimeVector=steps) == [19, 21, 23, 25, 27]
    assert indices_of(FrameTimeVector=steps[1:]) == [19, 21, 23, 25, 27]  # without the first
    assert indices_of(FrameTimeVector=[33.3333] * 30) == [3, 9, 15, 21, 27]


def test_frames_beside_the_trim_are_not_shown(indices_of):
    assert indices_of(StartTrim=11, StopTrim=20) == [11, 13, 15, 17, 19]
    assert indices_of(StartTrim=28) == [27, 28, 29]
    assert indices_of(StopTrim=2, FrameTimeVector=[0, *[40] * 29]) == [0, 1]
    by_change = indices_of(StartTrim=11, StopTrim=20, sampling="change")
    assert by_change
    assert set(by_change) <= set(range(10, 20))


@pytest.mark.parametrize("vector", [[0, 10], [0, *[-1] * 29], ["0", *["x"] * 29], 5, None])
def test_a_vector_of_another_loop_says_nothing(vector):
    data = Dataset()
    if vector is not None:
        data.add_new("FrameTimeVector", "LO", vector)
    assert find_starts(data, 30) == [None] * 30
    ignored = {ODD_TIMES: 1}
    assert describe_times(data, 30) == ({} if vector is None else ignored)


@pytest.mark.parametrize(
    ("trim", "shown"),
    [
        ((None, None), range(30)),
        ((1, 30), range(30)),
        ((30, 30), range(29, 30)),
        ((0, 29), range(30)),
        ((20, 10), range(30)),
        ((5, 31), range(30)),
        (("x", 10), range(30)),
    ],
)
def test_a_trim_of_another_loop_says_nothing(trim, shown):
    data = Dataset()
    for keyword, value in zip(("StartTrim", "StopTrim"), trim, strict=True):
        if value is not None:
            data.add_new(keyword, "LO", str(value))
    assert find_shown(data, 30) == shown
    said = describe_times(data, 30)
    if len(shown) < 30:
        assert said == {LEFT_OUT: 29}
    else:
        whole = trim in ((None, None), (1, 30))
        assert said == ({} if whole else {ODD_TRIM: 1})


def test_a_long_loop_costs_what_its_chosen_frames_do(indices_of):
    """30 frames take 57,600 bytes, the five that are there at once 9,600."""
    assert len(indices_of(limits={"max_decoded_bytes": 9_600})) == 5
    with pytest.raises(RejectedImageError, match=r"^too_many_bytes: 5 frames of 1,920 bytes"):
        indices_of(limits={"max_decoded_bytes": 9_599})
