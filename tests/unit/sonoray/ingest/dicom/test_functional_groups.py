"""Enhanced objects: window, rescale, spacing and kind of data that hold for single frames."""

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedUSVolumeStorage

from sonoray.images.decode import ImageLimits, RejectedImageError
from sonoray.ingest.dicom.containers import BytesEntry
from sonoray.ingest.dicom.dicom_config import DicomConfig
from sonoray.ingest.dicom.objects import decode_object
from sonoray.ingest.dicom.pixels import Remark


def macro(keyword, **attributes):
    """Functional groups with one macro."""
    item = Dataset()
    for name, value in attributes.items():
        setattr(item, name, value)
    groups = Dataset()
    setattr(groups, keyword, Sequence([item]))
    return groups


def joined(*parts):
    groups = Dataset()
    for part in parts:
        groups.update(part)
    return groups


def holds(kind):
    return macro("ImageDataTypeSequence", DataType=kind)


def decode(data, **config):
    entry = BytesEntry(ref="x", data=data, max_bytes=10**7)
    return decode_object(entry, DicomConfig.model_validate(config), ImageLimits())


@pytest.fixture
def volume(make_object):
    """An Enhanced US Volume of three 16-bit frames of its own ramps."""
    ramp = np.linspace(0, 4095, 20 * 24).astype(np.uint16).reshape(20, 24)
    stored = np.stack([ramp, ramp[::-1], ramp[:, ::-1]])

    def make(own, shared=None):
        groups = {"PerFrameFunctionalGroupsSequence": Sequence(own)}
        if shared is not None:
            groups["SharedFunctionalGroupsSequence"] = Sequence([shared])
        return make_object(stored, SOPClassUID=EnhancedUSVolumeStorage, **groups)

    return stored, make


def test_window_and_spacing_are_those_of_the_frame_before_those_of_all(volume):
    stored, make = volume
    shared = joined(
        macro("FrameVOILUTSequence", WindowCenter="2048", WindowWidth="4096"),
        macro("PixelMeasuresSequence", PixelSpacing=[0.5, 0.25]),
    )
    own = joined(
        macro("FrameVOILUTSequence", WindowCenter="1000", WindowWidth="500"),
        macro("PixelMeasuresSequence", PixelSpacing=[2, 1]),
        macro("PixelValueTransformationSequence", RescaleIntercept="-1000", RescaleSlope="1"),
    )
    first, second, _ = decode(make([Dataset(), own, Dataset()], shared)).frames
    assert first.labels == {"spacing_mm_x": "0.25", "spacing_mm_y": "0.5"}
    assert second.labels == {"spacing_mm_x": "1", "spacing_mm_y": "2"}
    assert np.abs(first.pixels - stored[0] * (255 / 4095)).max() <= 1
    moved = stored[1].astype(float) - 1000
    assert (second.pixels[moved < 740] == 0).all()
    assert (second.pixels[moved > 1260] == 255).all()
    assert 120 < second.pixels[np.abs(moved - 1000) < 5].mean() < 135


def test_frames_of_velocities_are_left_out_and_counted(volume):
    stored, make = volume
    own = [holds("FLOW_VELOCITY"), holds("TISSUE_INTENSITY"), holds("FLOW_VELOCITY")]
    decoded = decode(make(own))
    assert [frame.index for frame in decoded.frames] == [1]
    assert np.abs(decoded.frames[0].pixels - stored[1] * (255 / 65535)).max() <= 1
    assert decoded.remarks == {Remark.VALUES_LEFT_OUT: 2}


def test_an_object_of_velocities_alone_is_refused_by_name(volume):
    _, make = volume
    with pytest.raises(RejectedImageError, match=r"^unsupported_pixels: .*FLOW_VELOCITY"):
        decode(make([Dataset()] * 3, holds("FLOW_VELOCITY")))
