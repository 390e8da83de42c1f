"""What the attributes say of the pixels, checked as a whole before a byte of them is read.

Source: DICOM PS3.3 section C.7.6.3 (Image Pixel module), PS3.5 section 8 (which syntax takes which
photometric interpretation).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.pixels.common import PhotometricInterpretation
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEG2000TransferSyntaxes,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSNearLossless,
    JPEGLSTransferSyntaxes,
    MPEGTransferSyntaxes,
    RLELossless,
)

from sonoray.images.decode import ImageLimits, RejectedImageError
from sonoray.ingest.dicom.dicom_config import DicomLimits, FrameConfig
from sonoray.ingest.dicom.header import Header
from sonoray.ingest.dicom.kinds import class_name

_GREY = ("MONOCHROME1", "MONOCHROME2")
_PALETTE = ("PALETTE COLOR",)
_FULL = ("RGB", "YBR_FULL")

_NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
_LOSSY_JPEG = (JPEGBaseline8Bit, JPEGExtended12Bit)
_LOSSLESS_JPEG = (JPEGLossless, JPEGLosslessSV1, *JPEGLSTransferSyntaxes)
_LOSSLESS_JPEG_2000 = (JPEG2000Lossless, HTJ2KLossless, HTJ2KLosslessRPCL)
VIDEOS = tuple(MPEGTransferSyntaxes)
"""Transfer syntaxes whose pixel data is one stream, with frames that build on others."""

PHOTOMETRICS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_NATIVE, (*_GREY, *_PALETTE, *_FULL, "YBR_FULL_422")),
    RLELossless: (*_GREY, *_PALETTE, *_FULL),
    **dict.fromkeys(_LOSSY_JPEG, (*_GREY, *_FULL, "YBR_FULL_422")),
    **dict.fromkeys(_LOSSLESS_JPEG, (*_GREY, *_PALETTE, *_FULL)),
    **dict.fromkeys(JPEG2000TransferSyntaxes, (*_GREY, *_FULL, "YBR_ICT", "YBR_RCT")),
    **dict.fromkeys(_LOSSLESS_JPEG_2000, (*_GREY, *_PALETTE, *_FULL, "YBR_ICT", "YBR_RCT")),
    JPEGLSNearLossless: (*_GREY, *_FULL),
    **dict.fromkeys(
        VIDEOS,
        ("MONOCHROME2", *_FULL, "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_PARTIAL_422"),
    ),
}
"""By transfer syntax: the photometric interpretations that are read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelFormat:
    """Geometry and coding of an object's frames."""

    rows: int
    columns: int
    samples: int
    """Samples per pixel, 1 or 3."""
    frames: int
    photometric: str
    planar: int
    """1 where each colour is a plane of its own."""
    bits_allocated: int
    """8 or 16; 1 of a binary segmentation."""
    bits_stored: int
    is_signed: bool


def read_pixel_format(
    header: Header,
    limits: ImageLimits,
    dicom: DicomLimits,
    taken: FrameConfig,
    *,
    depths: Sequence[int] = (8, 16),
) -> PixelFormat:
    """Read the Image Pixel module and hold it to the limits and to itself.

    Args:
        header: of the object.
        limits: of a picture.
        dicom: of an object.
        taken: how many of its frames are decoded and kept.
        depths: bits allocated that the caller reads.

    Raises:
        RejectedImageError: an attribute is missing, contradicts another or asks for too much.
    """
    if header.pixel_offset is None:
        raise RejectedImageError(f"not_an_image: {class_name(header.sop_class)} without pixel data")
    header.check_syntax()
    data = header.dataset
    samples = _integer(data, "SamplesPerPixel")
    bits_stored = _integer(data, "BitsStored")
    pixels = PixelFormat(
        rows=_integer(data, "Rows"),
        columns=_integer(data, "Columns"),
        samples=samples,
        frames=_integer(data, "NumberOfFrames", default=1),
        photometric=_text(data, "PhotometricInterpretation"),
        planar=_integer(
            data,
            "PlanarConfiguration",
            default=0 if samples == 1 or header.is_encapsulated else None,
        ),
        bits_allocated=_integer(data, "BitsAllocated"),
        bits_stored=bits_stored,
        is_signed=_integer(data, "PixelRepresentation") == 1,
    )
    high_bit = _integer(data, "HighBit", default=bits_stored - 1)
    _check_coding(header, pixels, high_bit=high_bit, depths=depths)
    _check_size(header, pixels, limits, dicom, taken)
    return pixels


def _check_coding(
    header: Header, pixels: PixelFormat, *, high_bit: int, depths: Sequence[int]
) -> None:
    photometrics = PHOTOMETRICS[header.syntax]
    if pixels.photometric not in photometrics:
        is_known = pixels.photometric in list(PhotometricInterpretation)
        named = pixels.photometric if is_known else "an unknown photometric interpretation"
        raise RejectedImageError(
            f"unsupported_pixels: {named} in {header.syntax.name}; read are "
            f"{', '.join(photometrics)}"
        )
    is_colour = pixels.photometric not in (*_GREY, *_PALETTE)
    if pixels.samples != (3 if is_colour else 1):
        raise RejectedImageError(
            f"contradiction: {pixels.samples} samples per pixel with {pixels.photometric}"
        )
    if pixels.bits_allocated not in depths or not (
        1 <= pixels.bits_stored == high_bit + 1 <= pixels.bits_allocated
    ):
        raise RejectedImageError(
            f"unsupported_pixels: {pixels.bits_allocated} bits allocated, {pixels.bits_stored} "
            f"stored, high bit {high_bit}; read are {' and '.join(map(str, depths))} bits with the "
            "values in the low ones"
        )
    is_video = header.syntax in VIDEOS
    if pixels.bits_stored != 8 and pixels.photometric.startswith("YBR") and not is_video:
        raise RejectedImageError(
            f"unsupported_pixels: {pixels.photometric} of {pixels.bits_stored} bits; read is 8"
        )
    if header.dataset.get("DataFrameAssignmentSequence"):
        raise RejectedImageError(
            "unsupported_pixels: an Enhanced Palette (Data Frame Assignment Sequence), which "
            "blends several values of a pixel; export the frames as RGB"
        )
    if pixels.is_signed and pixels.photometric not in _GREY:
        raise RejectedImageError(f"contradiction: signed values with {pixels.photometric}")
    if pixels.planar not in (0, 1):
        raise RejectedImageError(f"contradiction: planar configuration {pixels.planar}")
    is_native = header.syntax in _NATIVE
    if is_native and pixels.photometric == "YBR_FULL_422" and (pixels.columns % 2 or pixels.planar):
        raise RejectedImageError(
            f"contradiction: YBR_FULL_422 with {pixels.columns} columns and planar configuration "
            f"{pixels.planar}; pairs of pixels share their colour"
        )
    if header.is_encapsulated == is_native:
        raise RejectedImageError(
            f"contradiction: pixel data {'in' if header.is_encapsulated else 'without'} fragments "
            f"with {header.syntax.name}"
        )


def _check_size(
    header: Header,
    pixels: PixelFormat,
    limits: ImageLimits,
    dicom: DicomLimits,
    taken: FrameConfig,
) -> None:
    if pixels.frames > dicom.max_frames:
        raise RejectedImageError(
            f"too_many_frames: {pixels.frames:,}, at most {dicom.max_frames:,}; raise "
            "dicom.limits.max_frames"
        )
    if min(pixels.rows, pixels.columns, pixels.frames) < 1:
        raise RejectedImageError(
            f"contradiction: {pixels.columns} x {pixels.rows} pixels in {pixels.frames} frames"
        )
    if pixels.rows * pixels.columns > limits.max_pixels:
        raise RejectedImageError(
            f"too_many_pixels: {pixels.columns} x {pixels.rows}, at most {limits.max_pixels:,}; "
            "raise ingest.images.max_pixels"
        )
    frame_bytes = pixels.rows * pixels.columns * pixels.samples * pixels.bits_allocated // 8
    num_taken = min(pixels.frames, taken.max_frames)  # no others are there decoded at once
    if num_taken * frame_bytes > dicom.max_decoded_bytes:
        raise RejectedImageError(
            f"too_many_bytes: {num_taken} frames of {frame_bytes:,} bytes, at most "
            f"{dicom.max_decoded_bytes:,}; raise dicom.limits.max_decoded_bytes or take fewer with "
            "dicom.frames.max_frames"
        )
    if header.is_encapsulated:
        return
    if pixels.photometric == "YBR_FULL_422":  # two chrominances for every two pixels
        frame_bytes = frame_bytes // 3 * 2
    if header.pixel_length < pixels.frames * frame_bytes:
        raise RejectedImageError(
            f"truncated: {header.pixel_length:,} bytes of pixels, {pixels.frames} frames of "
            f"{frame_bytes:,} bytes announced; export the object again"
        )


def _integer(data: Dataset, keyword: str, *, default: int | None = None) -> int:
    value = data.get(keyword)
    if value in (None, "") and default is not None:
        return default
    if value in (None, ""):
        raise RejectedImageError(f"missing_attribute: {keyword}")
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not number.is_integer():
        raise RejectedImageError(f"contradiction: {keyword} is no whole number")
    return int(number)


def _text(data: Dataset, keyword: str) -> str:
    value = data.get(keyword)
    if not value:
        raise RejectedImageError(f"missing_attribute: {keyword}")
    return str(value)
