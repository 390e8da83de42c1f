"""Colours that a JPEG tells of itself, against what the attributes say."""

import io

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import JPEGBaseline8Bit

from sonoray.images.decode import ImageLimits
from sonoray.ingest.dicom.codestream import read_jpeg
from sonoray.ingest.dicom.containers import BytesEntry
from sonoray.ingest.dicom.dicom_config import DicomConfig
from sonoray.ingest.dicom.objects import decode_object
from sonoray.ingest.dicom.pixels import Remark

RED = (133, 17, 26)
FULL, HALF, QUARTER = 0, 1, 2


def encode(subsampling, *, rgb=False, adobe=None):
    """An even red JPEG without markers, or with Adobe's alone."""
    file = io.BytesIO()
    image = Image.new("RGB", (33, 32), RED)
    image.save(file, "JPEG", quality=95, subsampling=subsampling, keep_rgb=rgb)
    data = file.getvalue()
    kept, position = data[:2], 2
    while data[position + 1] != 0xDA:
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if not 0xE0 <= data[position + 1] <= 0xEF:
            kept += data[position:end]
        position = end
    marker = b"" if adobe is None else b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([adobe])
    return kept[:2] + marker + kept[2:] + data[position:]


def decode(make_object, codestream, photometric):
    attributes = {"PhotometricInterpretation": photometric}
    picture = np.zeros((1, 32, 33, 3), np.uint8)
    data = make_object(picture, JPEGBaseline8Bit, frames=[codestream], **attributes)
    entry = BytesEntry(ref="x", data=data, max_bytes=10**6)
    decoded = decode_object(entry, DicomConfig(), ImageLimits())
    return decoded.frames[0].pixels[16, 16].tolist(), decoded.remarks


@pytest.mark.parametrize(
    ("codestream", "is_contradicted"),
    [
        (encode(HALF), True),
        (encode(QUARTER), True),
        (encode(FULL, adobe=1), True),
        (encode(FULL, rgb=True), False),
        (encode(FULL, rgb=True, adobe=0), False),
    ],
    ids=["half", "quarter", "adobe", "rgb", "adobe rgb"],
)
@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL_422", "YBR_FULL"])
@pytest.mark.filterwarnings("ignore:The .0028,0004.")
def test_a_jpeg_outranks_the_attribute_and_it_is_said(
    make_object, codestream, is_contradicted, photometric
):
    shown, remarks = decode(make_object, codestream, photometric)
    assert np.abs(np.subtract(shown, RED)).max() <= 1
    says_so = is_contradicted and photometric == "RGB"
    assert remarks == ({Remark.READ_AS_YBR: 1} if says_so else {})


def test_without_a_contradiction_the_attribute_holds(make_object):
    """A JPEG may hold RGB as it is: nothing in this one says otherwise."""
    shown, remarks = decode(make_object, encode(FULL), "RGB")
    assert np.abs(np.subtract(shown, (53, 113, 185))).max() <= 1
    assert remarks == {}


def test_the_geometry_is_read_whatever_stands_before_it():
    read = read_jpeg(encode(HALF, adobe=1))
    assert (read.columns, read.rows, read.samples, read.precision) == (33, 32, 3, 8)
    assert read.is_ybr
