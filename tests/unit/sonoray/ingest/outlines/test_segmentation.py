"""Segmentations of every type, made bit by bit, and which pictures they outline."""

import numpy as np
import pytest
from pydicom.uid import RLELossless

from sonoray.images.decode import ImageLimits, RejectedImageError
from sonoray.ingest.dicom.containers import BytesEntry
from sonoray.ingest.dicom.dicom_config import DicomConfig
from sonoray.ingest.outlines.segmentation import read_outlines

ANATOMY, FINDING = "123037004", "49755003"


def read(data, *wanted):
    entry = BytesEntry(ref="x", data=data, max_bytes=10**6)
    return read_outlines(entry, wanted, DicomConfig(), ImageLimits())


def drawn(seed, rows=17, columns=19):
    """An outline that fills no whole number of bytes."""
    return np.random.default_rng(seed).random((rows, columns)) < 0.3


def test_bits_are_read_wherever_a_frame_begins(make_segmentation):
    outlines = [drawn(seed) for seed in range(3)]
    data = make_segmentation(outlines, places=[("1.1", 1), ("1.1", 3), ("1.2", None)])
    found = read(data, ("1.1", 2), ("1.2", 0))
    assert set(found.masks) == {("1.1", 2), ("1.2", 0)}
    np.testing.assert_array_equal(found.masks["1.1", 2], 255 * outlines[1])
    np.testing.assert_array_equal(found.masks["1.2", 0], 255 * outlines[2])
    assert (found.num_outlined, found.num_unclear) == (3, 0)


def test_segments_of_one_picture_are_joined(make_segmentation):
    outlines = [drawn(0), drawn(1)]
    data = make_segmentation(outlines, places=[("1.1", 1)] * 2, segments=[1, 2])
    np.testing.assert_array_equal(
        read(data, ("1.1", 0)).masks["1.1", 0], 255 * (outlines[0] | outlines[1])
    )


def test_anatomy_is_no_mask_where_something_else_is_outlined(make_segmentation):
    outlines = [drawn(0), drawn(1)]
    given = {"places": [("1.1", 1)] * 2, "segments": [1, 2]}
    both = make_segmentation(outlines, categories=[ANATOMY, FINDING], **given)
    np.testing.assert_array_equal(read(both, ("1.1", 0)).masks["1.1", 0], 255 * outlines[1])
    organs = make_segmentation(outlines, categories=[ANATOMY, ANATOMY], **given)
    np.testing.assert_array_equal(
        read(organs, ("1.1", 0)).masks["1.1", 0], 255 * (outlines[0] | outlines[1])
    )


@pytest.mark.parametrize("syntax", ["", RLELossless])
def test_half_of_the_greatest_fraction_is_inside(make_segmentation, syntax):
    values = np.random.default_rng(0).integers(0, 101, (17, 19)).astype(np.uint8)
    given = {"MaximumFractionalValue": 100}
    data = make_segmentation(
        [values], places=[("1.1", 1)], kind="FRACTIONAL", syntax=syntax, **given
    )
    np.testing.assert_array_equal(read(data, ("1.1", 0)).masks["1.1", 0], 255 * (values >= 50))


def test_values_of_a_label_map_are_segments(make_segmentation):
    values = np.random.default_rng(0).integers(0, 4, (17, 19)).astype(np.uint8)
    data = make_segmentation(
        [values],
        places=[("1.1", 1)],
        kind="LABELMAP",
        segments=[1, 2, 3],
        categories=[FINDING, ANATOMY, FINDING],
    )
    np.testing.assert_array_equal(
        read(data, ("1.1", 0)).masks["1.1", 0], 255 * np.isin(values, [1, 3])
    )


def test_an_outline_that_names_no_picture_is_counted(make_segmentation):
    found = read(make_segmentation([drawn(0), drawn(1)], places=[None, ("1.1", 1)]), ("9.9", 0))
    assert (dict(found.masks), found.num_outlined, found.num_unclear) == ({}, 1, 1)


@pytest.mark.parametrize(
    ("attributes", "problem"),
    [
        ({"SegmentationType": "SURFACE"}, "unsupported_segmentation: its type is none of"),
        ({"NumberOfFrames": 9}, "truncated: 42 bytes of pixels, 9 frames"),
    ],
)
def test_another_type_and_a_cut_one_are_one_line(make_segmentation, attributes, problem):
    data = make_segmentation([drawn(0)], places=[("1.1", 1)], **attributes)
    with pytest.raises(RejectedImageError, match=problem):
        read(data, ("1.1", 0))
