import io

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from sonoray.dicomweb.bare import CutOffError, copy_file

SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless)


def copy(body, size=64):
    """Copy a body that comes in pieces of `size` bytes; the file."""
    found = bytearray()
    copy_file((body[start : start + size] for start in range(0, len(body), size)), found.extend)
    return bytes(found)


@pytest.fixture(params=SYNTAXES, ids=lambda syntax: syntax.name)
def file(request, make_object):
    """An object with sequences of known and of unknown length, and something after the pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 12, 10), dtype=np.uint8)
    data = pydicom.dcmread(io.BytesIO(make_object(pixels, request.param)))
    for keyword in ("SequenceOfUltrasoundRegions", "ReferencedStudySequence"):
        item, inner = Dataset(), Dataset()
        item.RegionFlags, inner.CodeValue = 1, "AB" * 7
        item.PurposeOfReferenceCodeSequence = [inner]
        setattr(data, keyword, [item, Dataset()])
    for each in (item, inner):
        each.is_undefined_length_sequence_item = True
    data["ReferencedStudySequence"].is_undefined_length = True
    item["PurposeOfReferenceCodeSequence"].is_undefined_length = True
    data.DataSetTrailingPadding = bytes(30)
    written = io.BytesIO()
    data.save_as(written)
    return written.getvalue()


@pytest.mark.parametrize("size", [1, 7, 64, 10**6])
def test_a_whole_file_comes_out_as_it_went_in(file, size):
    assert b"\xff\xff\xff\xff" in file
    assert copy(file, size) == file


def test_no_part_of_a_file_has_a_part_of_its_pixels(file):
    whole = pydicom.dcmread(io.BytesIO(file)).PixelData
    taken = []
    for end in range(len(file)):
        try:
            taken.append(copy(file[:end]))
        except CutOffError:
            continue
    assert len(taken) < 40  # one for each element
    for part in taken:
        assert pydicom.dcmread(io.BytesIO(part)).get("PixelData", whole) == whole


@pytest.mark.parametrize("body", [b"", b"<html>", bytes(128) + b"DICM" + b"\2"])
def test_what_is_no_whole_file_counts_as_cut_off(body):
    with pytest.raises(CutOffError):
        copy(body)


def test_a_deflated_file_cannot_be_told_from_a_part(make_object):
    data = pydicom.dcmread(io.BytesIO(make_object(np.zeros((1, 16, 16), dtype=np.uint8))))
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    written = io.BytesIO()
    data.save_as(written)
    with pytest.raises(CutOffError):
        copy(written.getvalue())
