"""High-throughput JPEG 2000, whose codestreams no library here writes.

The codestreams hold the pictures that `make_picture` draws, encoded once by OpenJPH through
imagecodecs 2026.3: reversible ones, and one that is lossy.
"""

import base64

import numpy as np
import pytest
from pydicom.uid import HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL

from sonoray.images.decode import ImageLimits, RejectedImageError
from sonoray.ingest.dicom.containers import BytesEntry
from sonoray.ingest.dicom.dicom_config import DicomConfig
from sonoray.ingest.dicom.objects import decode_object

GREY = base64.b64decode(
    "/0//UQApQAAAAAAUAAAAEAAAAAAAAAAAAAAAFAAAABAAAAAAAAAAAAABBwEB/1AACAACAAAAAv9SAAwAAgABAAUE"
    "BEAB/1wAEyBIUFBQUFBQUFBQUFBQSEhI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAANYAAf+TwCX0"
    "AId0AMASgPEAx3QAwBLAEwCGAQd0AM/PAEI0AMATQBVQBIBYAwAClADgwBm84QOTfrUA/gBjAMAWlAFpQBMAEgCD"
    "M0oAQkDM+QP+CQA/grgATBLEcDFoDP4AJ/JJbdF+rjoAxB60CYUAwC34BdHALSAAgJoAADATAGYCgDDzD7oo0Ry5"
    "i9n9xVYRcRlwhbIBQgEAQOD/f2M4jmMYjmH4aAkgIJIDHTixYu+hZ2da9VcZlAEYJaP4AC94EMupXxm7enpOHgD/"
    "2Q=="
)
DEEP = base64.b64decode(
    "/0//UQApQAAAAAAUAAAAEAAAAAAAAAAAAAAAFAAAABAAAAAAAAAAAAABDwEB/1AACAACAAAACv9SAAwAAgABAAUE"
    "BEAB/1wAEyCIkJCQkJCQkJCQkJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAjAAAf+TwAAm"
    "ZPEEh3QAwAATAIHyA4d0AMAAE0AAFRAABKCQhgUHdACbz2/PAUI0APUAB3QAwAAVUAAFowAAVAAsqqbtv+oBwbQA"
    "2t/mAP6ZGzC/J+IA5wN+tgBPrx3DAGKUAMAAF1EAAF1EAAFugKZCoTpAog49wEmElTNgEs9rGoGFR8JByAF83NCE"
    "+QH/BKAfIQBSugAKZgp0MeJZhVDSHTp1SQVhNYbNlUIg5RNNQdTSAM/8msuYLyEA0LwAtbzlbY9gzQcmjHNgejyA"
    "MCAD/gU7zEQ3gABpmgDAAC94gABe9wAAvTAAQQIAIQAoAODCgQAAAAwEIB9+8AsVNUlgPIAFCUSQYOCgBAIAAArs"
    "B5AA8AkTNEGgfID2KxQwgEJAgwEAIDivX7z8gRdM0AT58PUDgHDBQAAIEQIAAFDgQIAExT9M0AT9ACdGvHIzohva"
    "nRrq9HCwhAZlEIDStwECiRZYiGBxggWJLaoY4IkHIhIIQYASAaign4B+AP8I6D/Av3788vIP6C8v3/x8CDyAv4IP"
    "OOBgAwkVLHTAEIGDBQ4Q9GvQwTI4aAweJIMHyeBhMjhYDA4agwfK4GAxOGAM/gEBSBBoGOksk1yySUIAiko0IYBo"
    "EIAxuQGAAAABAwL+/QEAGBCAAAB/AP4C/PPvD/iPPwB//gX4F9AfACDgHwEC9hfwBwDwD+ABh3ZBAd938OCuXoLD"
    "TFDvucgXhCBffiAB71wB/9k="
)
RGB = base64.b64decode(
    "/0//UQAvQAAAAAAUAAAAEAAAAAAAAAAAAAAAFAAAABAAAAAAAAAAAAADBwEBBwEBBwEB/1AACAACAAAAAv9SAAwA"
    "AgABAAUEBEAB/1wAEyBIUFBQUFBQUFBQUFBQSEhI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAk8A"
    "Af+TwCX0AId0AMAlkAEHdADAJaABB3QAwBKA8QDHdADAEoDyAAd0AMASgNYAh3QAwBLAEwCGAQd0AM/PAEI0AMAS"
    "wBMA4ACHdACfoQBCNADAEsATQBIAxgCHdAD7/AAiNAD+F3MAwBNAFVAEgFgDAAKUAODAGbzhA5N+tQD+AGMAwBLA"
    "FVAEYO7sYrMAXIbZtO0Dk361AADjAMASwBVQBICqZmKzAFRluajrA5N+tQD4GHMAwBaUAWlAEwASAIMzSgBCQMz5"
    "A/4JAD+CuABMEsRwMWgM/gAn8klt0X6uOgDEHrQJhQDAFoQBaUATAKIqKwEQI0Raf+CQA/SXmAAQBIFQ5Gxk5OwE"
    "zZAY6L/QuQCCQ0jw5QDAFfAFpQBUAADphiAS+v1H/AeH6lB4AMiIQuVYjiD8QAGfJTai+tG6AOD7dV7vp7YAwC34"
    "BdHALSAAgJoAADATAGYCgDDzD7oo0Ry5i9n9xVYRcRlwhbIBQgEAQOD/f2M4jmMYjmH4aAkgIJIDHTixYu+hZ2da"
    "9VcZlAEYJaP4AC94EMupXxm7enpOHgDALegFuwC0gAAAMwBgTgCAiQAEgJknTPCfNihUt26Uw5rL09/hASggAAAA"
    "QKmqqqqq/kCp07BoFEUpHQAw0IrGUzEBAPoHBAMYbLSVmpaRMq7a4u4AwC3oBbcArAAAaAHgDwD4AwCg/QTtAwv7"
    "Qep/9bTvdEasmrxyAQAAAACAXru27UBPZJ79knstfIQY1hrGEdWyATVAgEBZBTIKaqzqAP/Z"
)
RCT = base64.b64decode(
    "/0//UQAvQAAAAAAUAAAAEAAAAAAAAAAAAAAAFAAAABAAAAAAAAAAAAADBwEBBwEBBwEB/1AACAACAAAAA/9SAAwA"
    "AgABAQUEBEAB/1wAEyBQWFhYWFhYWFhYWFhYUFBQ/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAkEA"
    "Af+TwBKAjAEHdADAEoDyAMd0AMASgPUAx3QAwAlA6gAHdADACUDmAAd0AMAJQMUAh3QAwAlgBNACQOAAh3QAo58A"
    "QjQA/hdzAMAJYATQAkD7AMd0AKT5AAI0AP4AYwDACWAE0AIw5AAHdADv+wACNAAXcwDACWAFVACQ4DhhswDahKm0"
    "6gOTfrUA/gBjAMAJYATQAkD1/RGzAJn9WPs0APwA4wDACWAE8AJAKOERkwBmRAkrfrQA/QxzAMALQgBaUAKkIKjp"
    "oA0h5JxH/HIAfoOYACAEQdBMTc1MxQzOkBjov9C5AHr2AHefSK+3AMAKqAFbACoAZ4+RP/bXT1tnAG84raJxBMyQ"
    "H12q6AC4+RY58U/GAMAKuAFqQAqQlA9I+UnNXj+EtwDGZB5zxAFJFPFAAGYAAAx6+tC7AImc/hXxVvsWAMAW9AFs"
    "QBaoAIAIAMQAAMwAAIjxftieN/9MphZdU6rLmuXh3+IBAgAAAPj/f2Z8dQRaibVWzY1gvb1r1zEBwuSMK48A3B5r"
    "djbRjGs6r83nFXABwBasAWzAFqAiZE2BFvBiLmjUfsPPPMKbHV5BbwAAAAAQKGZiZuYQIGgQVATacWaiKUl0xUAB"
    "MgsQyvoAbm2SGO4GwqKy0B0wfwDAFrQBdDAFqggFDtDhAA3VlHFsbb7DLMzve0WaEQEAAOz/P6CUIIMUCZHyAynk"
    "188lvUUwattmU27m4FQftAEYRQBVsQKfdONtVRLmY1c54fdWEAH/2Q=="
)
ICT = base64.b64decode(
    "/0//UQAvQAAAAAAUAAAAEAAAAAAAAAAAAAAAFAAAABAAAAAAAAAAAAADBwEBBwEBBwEB/1AACAACAAAAI/9SAAwA"
    "AgABAQUEBEAA/1wAIyJ/dH9Ff0V/F3dcd1x3PW+qb6pvwlg1WDVYeFAaUBpfv/9kABcAAU9wZW5KUEggVmVyIDAu"
    "MjYuMy7/kAAKAAAAAAGbAAH/k8AAmGjgBAd0AMAAlM4CB3QAwACYgfwCh3QAwACYjP4CB3QAwACYsv4CB3QAwACU"
    "TQIHdADAATQAE4CU/AKHdACx+IoAwjQAwAEsABOA5QEHdAA2cf4AYjQAwAEsABOA6AEHdAAjR/4AYjQAwAKiABWw"
    "AIxer9P5AIK0ALae2BLF1pQAQgN+tgAAIwDAAngATq+N8gACtABPeL8pvZQAwAJoAFUARK39YbMAhCygCfkDk361"
    "AMALWgBXABhFBFArFTURAACDqVT+P+A4gfpZmACESM+7+0yPk9572jTZAMAKuAFogJsdQ/SAf+q57lcA37RIixpq"
    "lfYAH4AAU3UM6QDACsgBaYDABrD8AX/1Se/cuADCg3wYHyMyPowACH4QgU3UmjoAwBbUAVawEeEDjf5tYv9AiP5s"
    "oEkKfyQ7JT8ApQN+AALw29AOuu3X5CkAwBPAFpiA78kZLlYAeFgNjaFRtIr9/oEpklOmSU3aAMASwBao/n+ABADK"
    "BTgwcCDgwMCAgPO5T5KdPkpuigD/2Q=="
)


@pytest.fixture
def show(make_object, make_picture):
    """Decode a codestream; the picture that it holds, and what comes out."""

    def decode(codestream, syntax, photometric, *, deep=False, rows=16):
        samples = 1 if photometric == "MONOCHROME2" else 3
        picture = make_picture(rows=16, columns=20, samples=samples)
        stored = picture.astype(np.uint16) if deep else picture
        data = make_object(
            stored[None],
            syntax,
            frames=[codestream],
            PhotometricInterpretation=photometric,
            Rows=rows,
        )
        entry = BytesEntry(ref="x", data=data, max_bytes=10**6)
        return picture, decode_object(entry, DicomConfig(), ImageLimits()).frames[0].pixels

    return decode


@pytest.mark.parametrize(
    ("codestream", "syntax", "photometric", "deep"),
    [
        (GREY, HTJ2KLossless, "MONOCHROME2", False),
        (GREY, HTJ2KLosslessRPCL, "MONOCHROME2", False),
        (GREY, HTJ2K, "MONOCHROME2", False),
        (DEEP, HTJ2KLossless, "MONOCHROME2", True),
        (RGB, HTJ2KLossless, "RGB", False),
        (RCT, HTJ2KLossless, "YBR_RCT", False),
        (RCT, HTJ2KLosslessRPCL, "YBR_RCT", False),
        (RCT, HTJ2K, "YBR_RCT", False),
    ],
    ids=lambda value: None if isinstance(value, bytes) else str(value)[-12:],
)
def test_a_reversible_codestream_comes_out_exactly(show, codestream, syntax, photometric, deep):
    picture, shown = show(codestream, syntax, photometric, deep=deep)
    np.testing.assert_array_equal(shown, picture)


def test_a_lossy_one_is_close(show):
    picture, shown = show(ICT, HTJ2K, "YBR_ICT")
    difference = np.abs(shown.astype(int) - picture)
    assert difference.max() <= 2
    assert difference.mean() < 0.1


def test_one_of_another_size_is_refused_undecoded(show):
    with pytest.raises(
        RejectedImageError, match=r"^contradiction: the compressed frame is 20 x 16"
    ):
        show(GREY, HTJ2KLossless, "MONOCHROME2", rows=17)
