"""Videos in DICOM objects: one stream in fragments, of whatever container."""

from fractions import Fraction

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import HEVCMP51, MPEG2MPHL, MPEG2MPML, MPEG4HP41, MPEG4HP41BDF

from sonoray.images.decode import ImageLimits, RejectedImageError
from sonoray.ingest.dicom.containers import BytesEntry
from sonoray.ingest.dicom.dicom_config import DicomConfig
from sonoray.ingest.dicom.objects import decode_object

LUMINANCE = range(16, 236, 5)
"""Of 44 frames, over the whole limited range."""
SHOWN = [round((value - 16) * 255 / 219) for value in LUMINANCE]
STREAMS = {
    "mpeg2video in a program stream": (MPEG2MPML, "a.mpg", "mpeg2video"),
    "mpeg2video in a transport stream": (MPEG2MPHL, "a.ts", "mpeg2video"),
    "mpeg2video bare": (MPEG2MPML, "a.m2v", "mpeg2video"),
    "h264 in MP4": (MPEG4HP41, "a.mp4", "libx264"),
    "h264 in a transport stream": (MPEG4HP41BDF, "a.ts", "libx264"),
    "h264 bare": (MPEG4HP41, "a.h264", "libx264"),
    "hevc in MP4": (HEVCMP51, "a.mp4", "libx265"),
    "hevc bare": (HEVCMP51, "a.hevc", "libx265"),
}


@pytest.fixture
def make_video(write_video, make_object, tmp_path):
    """Build an object that holds a video of even frames in two fragments."""

    def make(syntax, name, codec, *, aspect=None, **attributes):
        options = {"x265-params": "log-level=none"} if codec == "libx265" else None
        path = write_video(
            tmp_path / name, codec, "yuv420p", LUMINANCE, rate=25, aspect=aspect, options=options
        )
        stream = path.read_bytes()
        half = len(stream) // 4 * 2  # fragments are even
        return make_object(
            np.zeros((len(LUMINANCE), 48, 64, 3), np.uint8),
            syntax,
            frames=[stream[:half], stream[half:]],
            PhotometricInterpretation="YBR_PARTIAL_420",
            **attributes,
        )

    return make


def decode(data, **config):
    entry = BytesEntry(ref="x", data=data, max_bytes=10**7)
    return decode_object(entry, DicomConfig.model_validate(config), ImageLimits())


@pytest.mark.parametrize("stream", STREAMS)
def test_frames_come_evenly_out_of_every_stream(make_video, stream):
    decoded = decode(make_video(*STREAMS[stream]))
    assert [frame.index for frame in decoded.frames] == [2, 8, 13, 19, 24, 30, 35, 41]
    for frame in decoded.frames:
        assert frame.pixels.shape[:2] == (48, 64)
        assert abs(float(frame.pixels.mean()) - SHOWN[frame.index]) < 3


def test_a_region_is_cut_where_pixels_were_made_square(make_video):
    region = Dataset()
    region.RegionSpatialFormat = region.RegionDataType = 1
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 16, 8
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 47, 39
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
    region.PhysicalDeltaX, region.PhysicalDeltaY = 0.03, 0.02
    data = make_video(
        *STREAMS["h264 in MP4"],
        aspect=Fraction(3, 2),
        SequenceOfUltrasoundRegions=Sequence([region]),
    )
    decoded = decode(data)
    assert decoded.frames[0].pixels.shape[:2] == (32, 48)
    assert decoded.frames[0].labels == {"spacing_mm_x": "0.2", "spacing_mm_y": "0.2"}
    assert decoded.remarks == {"video: pixels were made square": 1}


def test_a_video_of_another_geometry_and_one_that_is_none_are_refused(make_video, make_object):
    syntax, name, codec = STREAMS["h264 in MP4"]
    with pytest.raises(RejectedImageError, match=r"^contradiction: the video is 64 x 48"):
        decode(make_video(syntax, name, codec, Rows=40, Columns=56))
    picture = np.zeros((2, 48, 64, 3), np.uint8)
    given = {"frames": [b"no video"], "PhotometricInterpretation": "YBR_PARTIAL_420"}
    with pytest.raises(RejectedImageError, match=r"^unreadable: "):
        decode(make_object(picture, syntax, **given))


def test_a_trimmed_video_shows_what_is_within(make_video):
    data = make_video(*STREAMS["h264 bare"], StartTrim=11, StopTrim=18)
    assert [frame.index for frame in decode(data).frames] == list(range(10, 18))
    first = decode(data).frames[0].pixels.mean()
    assert abs(float(first) - SHOWN[10]) < 3
