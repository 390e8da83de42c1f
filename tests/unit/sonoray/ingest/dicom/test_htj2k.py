"""High-throughput JPEG 2000, whose codestreams no library here writes."""

import numpy as np
import pytest
from pydicom.uid import HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL

from sonoray.images.decode import ImageLimits, RejectedImageError
from sonoray.ingest.dicom.containers import BytesEntry
from sonoray.ingest.dicom.dicom_config import DicomConfig
from sonoray.ingest.dicom.objects import decode_object


@pytest.fixture
def show(make_object, make_picture, htj2k):
    """Decode a codestream; the picture that it holds, and what comes out."""

    def decode(codestream, syntax, photometric, *, deep=False, rows=16):
        samples = 1 if photometric == "MONOCHROME2" else 3
        picture = make_picture(rows=16, columns=20, samples=samples)
        stored = picture.astype(np.uint16) if deep else picture
        data = make_object(
            stored[None],
            syntax,
            frames=[htj2k[codestream]],
            PhotometricInterpretation=photometric,
            Rows=rows,
        )
        entry = BytesEntry(ref="x", data=data, max_bytes=10**6)
        return picture, decode_object(entry, DicomConfig(), ImageLimits()).frames[0].pixels

    return decode


@pytest.mark.parametrize(
    ("codestream", "syntax", "photometric", "deep"),
    [
        ("grey", HTJ2KLossless, "MONOCHROME2", False),
        ("grey", HTJ2KLosslessRPCL, "MONOCHROME2", False),
        ("grey", HTJ2K, "MONOCHROME2", False),
        ("deep", HTJ2KLossless, "MONOCHROME2", True),
        ("rgb", HTJ2KLossless, "RGB", False),
        ("rct", HTJ2KLossless, "YBR_RCT", False),
        ("rct", HTJ2KLosslessRPCL, "YBR_RCT", False),
        ("rct", HTJ2K, "YBR_RCT", False),
    ],
    ids=lambda value: str(value)[-12:],
)
def test_a_reversible_codestream_comes_out_exactly(show, codestream, syntax, photometric, deep):
    picture, shown = show(codestream, syntax, photometric, deep=deep)
    np.testing.assert_array_equal(shown, picture)


def test_a_lossy_one_is_close(show):
    picture, shown = show("ict", HTJ2K, "YBR_ICT")
    difference = np.abs(shown.astype(int) - picture)
    assert difference.max() <= 2
    assert difference.mean() < 0.1


def test_one_of_another_size_is_refused_undecoded(show):
    with pytest.raises(
        RejectedImageError, match=r"^contradiction: the compressed frame is 20 x 16"
    ):
        show("grey", HTJ2KLossless, "MONOCHROME2", rows=17)
