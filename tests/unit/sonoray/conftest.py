"""DICOM objects and videos made for tests: known pictures in every coding."""

import base64
import io
from collections.abc import Callable
from collections.abc import Sequence as Several
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    JPEG2000,
    UID,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
    SegmentationStorage,
    UltrasoundMultiFrameImageStorage,
)

HTJ2K = {
    "grey": (
        "/0//UQApQAAAAAAUAAAAEAAAAAAAAAAAAAAAFAAAABAAAAAAAAAAAAABBwEB/1AACAACAAAAAv9SAAwAAgABAAUE"
        "BEAB/1wAEyBIUFBQUFBQUFBQUFBQSEhI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAANYAAf+TwCX0"
        "AId0AMASgPEAx3QAwBLAEwCGAQd0AM/PAEI0AMATQBVQBIBYAwAClADgwBm84QOTfrUA/gBjAMAWlAFpQBMAEgCD"
        "M0oAQkDM+QP+CQA/grgATBLEcDFoDP4AJ/JJbdF+rjoAxB60CYUAwC34BdHALSAAgJoAADATAGYCgDDzD7oo0Ry5"
        "i9n9xVYRcRlwhbIBQgEAQOD/f2M4jmMYjmH4aAkgIJIDHTixYu+hZ2da9VcZlAEYJaP4AC94EMupXxm7enpOHgD/"
        "2Q=="
    ),
    "deep": (
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
    ),
    "rgb": (
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
    ),
    "rct": (
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
    ),
    "ict": (
        "/0//UQAvQAAAAAAUAAAAEAAAAAAAAAAAAAAAFAAAABAAAAAAAAAAAAADBwEBBwEBBwEB/1AACAACAAAAI/9SAAwA"
        "AgABAQUEBEAA/1wAIyJ/dH9Ff0V/F3dcd1x3PW+qb6pvwlg1WDVYeFAaUBpfv/9kABcAAU9wZW5KUEggVmVyIDAu"
        "MjYuMy7/kAAKAAAAAAGbAAH/k8AAmGjgBAd0AMAAlM4CB3QAwACYgfwCh3QAwACYjP4CB3QAwACYsv4CB3QAwACU"
        "TQIHdADAATQAE4CU/AKHdACx+IoAwjQAwAEsABOA5QEHdAA2cf4AYjQAwAEsABOA6AEHdAAjR/4AYjQAwAKiABWw"
        "AIxer9P5AIK0ALae2BLF1pQAQgN+tgAAIwDAAngATq+N8gACtABPeL8pvZQAwAJoAFUARK39YbMAhCygCfkDk361"
        "AMALWgBXABhFBFArFTURAACDqVT+P+A4gfpZmACESM+7+0yPk9572jTZAMAKuAFogJsdQ/SAf+q57lcA37RIixpq"
        "lfYAH4AAU3UM6QDACsgBaYDABrD8AX/1Se/cuADCg3wYHyMyPowACH4QgU3UmjoAwBbUAVawEeEDjf5tYv9AiP5s"
        "oEkKfyQ7JT8ApQN+AALw29AOuu3X5CkAwBPAFpiA78kZLlYAeFgNjaFRtIr9/oEpklOmSU3aAMASwBao/n+ABADK"
        "BTgwcCDgwMCAgPO5T5KdPkpuigD/2Q=="
    ),
}
"""By how colours are stored, encoded once by OpenJPH through imagecodecs 2026.3; `ict` is lossy."""
ENCODED = (RLELossless, JPEG2000Lossless, JPEG2000)


def build(
    pixels: np.ndarray,
    syntax: UID = ExplicitVRLittleEndian,
    *,
    encode_as: str = "",
    frames: Several[bytes] = (),
    **attributes: Any,
) -> Dataset:
    """An ultrasound object of `(N, H, W)` or `(N, H, W, 3)` values; `attributes` may lie.

    With `encode_as` YBR_RCT or YBR_ICT JPEG 2000 transforms the colours itself. With `frames` these
    are the codestreams, whatever `pixels` holds.
    """
    count, rows, columns = pixels.shape[:3]
    samples = 3 if pixels.ndim == 4 else 1
    bits = pixels.dtype.itemsize * 8
    data = Dataset()
    data.SOPClassUID = UltrasoundMultiFrameImageStorage
    data.SOPInstanceUID = "1.2.3.4"
    data.StudyInstanceUID = "1.2.3"
    data.PatientID = "P1"
    data.PatientName = "Secret^Name"
    data.Modality = "US"
    data.SamplesPerPixel = samples
    data.PhotometricInterpretation = "RGB" if samples == 3 else "MONOCHROME2"
    if samples == 3:
        data.PlanarConfiguration = 0
    data.NumberOfFrames = count
    data.Rows, data.Columns = rows, columns
    data.BitsAllocated = data.BitsStored = bits
    data.HighBit = bits - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    order = "<" if syntax.is_little_endian else ">"
    raw = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    if frames:
        data.PixelData = encapsulate(list(frames))
        data["PixelData"].VR = "OB"
    elif syntax == JPEGBaseline8Bit:
        data.PixelData = encapsulate([_jpeg(frame) for frame in pixels])
        data["PixelData"].VR = "OB"
    elif syntax in ENCODED:
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.PixelData = raw
        data["PixelData"].VR = "OW" if bits > 8 else "OB"
        data.PhotometricInterpretation = encode_as or data.PhotometricInterpretation
        extra = {"j2k_cr": [1]} if syntax == JPEG2000 else {}
        data.compress(syntax, generate_instance_uid=False, **extra)
    else:
        data.PixelData = raw + b"\0" * (len(raw) % 2)
        data["PixelData"].VR = "OW" if bits > 8 or syntax.is_implicit_VR else "OB"
    for name, value in attributes.items():
        setattr(data, name, value)
    return data


def segmentation(
    outlines: Several[np.ndarray],
    *,
    places: Several[tuple[str, int | None] | None],
    kind: str = "BINARY",
    segments: Several[int] = (),
    categories: Several[str] = (),
    syntax: UID | str = "",
    shift: int = 0,
    rows: int = 0,
    **attributes: Any,
) -> bytes:
    """A segmentation object with a frame for each of `outlines`.

    Args:
        outlines: values of each frame.
        places: which picture each outlines: SOP Instance UID, and frame from 1 if any.
        kind: SegmentationType.
        segments: number of the segment that each frame shows; a label map has all in each.
        categories: code of the category of each segment.
        syntax: transfer syntax, if not Explicit VR Little Endian.
        shift: columns by which outlines are moved.
        rows: how many are kept, if not all.
        attributes: may lie.
    """
    frames = np.stack([np.roll(each, shift, axis=1)[: rows or None] for each in outlines])
    frames = frames.astype(np.uint8)
    numbers = list(segments) or [1] * len(frames)
    data = build(frames, UID(syntax) if syntax else ExplicitVRLittleEndian)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = SegmentationStorage
    data.SOPInstanceUID, data.Modality, data.SegmentationType = "1.77", "SEG", kind
    if kind == "BINARY":
        data.BitsAllocated, data.BitsStored, data.HighBit = 1, 1, 0
        packed = np.packbits(frames.ravel(), bitorder="little").tobytes()
        data.PixelData = packed + b"\0" * (len(packed) % 2)
        data["PixelData"].VR = "OB"
    data.SegmentSequence = Sequence()
    for position, number in enumerate(dict.fromkeys(numbers)):
        segment = Dataset()
        segment.SegmentNumber = number
        category = Dataset()
        category.CodeValue = categories[position] if categories else "49755003"
        segment.SegmentedPropertyCategoryCodeSequence = Sequence([category])
        data.SegmentSequence.append(segment)
    data.PerFrameFunctionalGroupsSequence = Sequence()
    for number, place in zip(numbers, places, strict=kind != "LABELMAP"):
        data.PerFrameFunctionalGroupsSequence.append(_groups_of_outline(number, place))
    for name, value in attributes.items():
        setattr(data, name, value)
    return to_bytes(data)


def _groups_of_outline(number: int, place: tuple[str, int | None] | None) -> Dataset:
    groups, identification = Dataset(), Dataset()
    identification.ReferencedSegmentNumber = number
    groups.SegmentIdentificationSequence = Sequence([identification])
    if place is not None:
        source, derivation = Dataset(), Dataset()
        source.ReferencedSOPInstanceUID = place[0]
        if place[1] is not None:
            source.ReferencedFrameNumber = place[1]
        derivation.SourceImageSequence = Sequence([source])
        groups.DerivationImageSequence = Sequence([derivation])
    return groups


def to_bytes(data: Dataset) -> bytes:
    """The object as a file."""
    syntax = data.file_meta.TransferSyntaxUID
    file = io.BytesIO()
    data.save_as(
        file,
        enforce_file_format=True,
        implicit_vr=syntax.is_implicit_VR,
        little_endian=syntax.is_little_endian,
    )
    return file.getvalue()


def picture(seed: int = 0, *, rows: int = 40, columns: int = 48, samples: int = 1) -> np.ndarray:
    """A smooth uint8 picture of its own for each seed."""
    y, x = np.mgrid[:rows, :columns]
    planes = np.stack(
        [
            127 + 60 * np.sin(x / (5 + seed + plane)) + 60 * np.cos(y / (4 + plane))
            for plane in range(samples)
        ],
        axis=-1,
    )
    return np.rint(planes[..., 0] if samples == 1 else planes).astype(np.uint8)


def _jpeg(frame: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=95)
    return file.getvalue()


@pytest.fixture
def make_object() -> Callable[..., bytes]:
    """Build an object of known pixels as the bytes of a file."""

    def make(pixels: np.ndarray, syntax: UID = ExplicitVRLittleEndian, **attributes: Any) -> bytes:
        return to_bytes(build(pixels, syntax, **attributes))

    return make


@pytest.fixture
def make_segmentation() -> Callable[..., bytes]:
    """Build a segmentation as the bytes of a file."""
    return segmentation


@pytest.fixture
def make_picture() -> Callable[..., np.ndarray]:
    """Draw a known picture."""
    return picture


@pytest.fixture
def htj2k() -> dict[str, bytes]:
    """HTJ2K codestreams of the pictures of 16 x 20 that `picture` draws; `deep` is of 16 bits."""
    return {name: base64.b64decode(text) for name, text in HTJ2K.items()}


@pytest.fixture
def write_video() -> Callable[..., Path]:
    """Write a video of known frames; ffv1, the default codec, is lossless."""

    def write(
        path: Path,
        codec: str = "ffv1",
        pixel_format: str = "bgr0",
        values: Any = range(0, 240, 8),
        *,
        milliseconds: Any = None,
        aspect: Fraction | None = None,
        colour_range: int | None = None,
        options: Any = None,
        rate: int = 10,
    ) -> Path:
        """A number is a frame of 64 x 48 of that grey; an array `(H, W)` stands for itself.

        Frames of `yuv420p` and of `gray` take values as they are, whatever the range.
        """
        arrays = [
            np.full((48, 64), each, np.uint8) if np.isscalar(each) else each for each in values
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=rate, options=dict(options or {}))
            stream.height, stream.width = arrays[0].shape
            stream.pix_fmt = pixel_format
            if aspect is not None:
                stream.codec_context.sample_aspect_ratio = aspect
            if colour_range is not None:
                stream.codec_context.color_range = colour_range
            for number, array in enumerate(arrays):
                if pixel_format in ("gray", "yuv420p"):
                    chroma = np.full((array.shape[0] // 2, array.shape[1]), 128, np.uint8)
                    planes = array if pixel_format == "gray" else np.concatenate([array, chroma])
                    frame = av.VideoFrame.from_ndarray(planes, format=pixel_format)
                else:
                    colours = av.VideoFrame.from_ndarray(np.stack([array] * 3, -1), format="rgb24")
                    frame = colours.reformat(format=pixel_format)
                if milliseconds is not None:
                    frame.pts, frame.time_base = milliseconds[number], Fraction(1, 1000)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path

    return write
