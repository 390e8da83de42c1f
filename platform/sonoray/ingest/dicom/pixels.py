"""From a frame of whatever coding to 8 bits: uint8, `(H, W)` or `(H, W, 3)` RGB.

pydicom and the pylibjpeg plugins decode, and pydicom converts YBR to RGB, applies palettes, rescale
and windows. Chosen here is what 8 bits show of deeper values: the object's window (VOI LUT, or
window centre and width; the first where there are several), else the full range of the bits stored.
The values' own minimum and maximum are not used: they would make one brightness mean different
things in different frames. MONOCHROME1 is inverted, so that more is always brighter. An enhanced
object gives window and rescale frame by frame (`functional_groups`). Grey values above the first
that a supplemental palette maps are its colours.

A JPEG whose codestream contradicts RGB is read as YBR, and `Remark` says so. Of uncompressed values
nothing says what they are; where the second and third rest at 128, as the chrominances of a grey
picture do, the picture is kept as labelled and marked.

Sources: DICOM PS3.3 sections C.7.6.3 (Image Pixel), C.7.6.19 (Supplemental Palette), C.11.1
(Modality LUT), C.11.2 (VOI LUT).
"""

from collections.abc import Iterator
from enum import StrEnum
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import generate_fragments, get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut

from sonoray.images.decode import Pixels, RejectedImageError
from sonoray.ingest.dicom.codestream import check_codestream
from sonoray.ingest.dicom.functional_groups import attributes_of_frame, copy_attributes
from sonoray.ingest.dicom.header import Header
from sonoray.ingest.dicom.pixel_format import PixelFormat

_BAD_ATTRIBUTES = (
    ValueError,
    TypeError,
    AttributeError,
    KeyError,
    IndexError,
    NotImplementedError,
)
"""What pydicom raises on tables and windows that are incomplete or of the wrong kind."""
_REST = 128
_REST_TOLERANCE = 3
"""How far a chrominance of grey is from 128 after lossy coding."""


class Remark(StrEnum):
    """What was decided about an object's pixels without refusing them, as `reason: detail`."""

    READ_AS_YBR = "read_as_ybr: objects labelled RGB are read as YBR, as their JPEG says"
    CHROMA_AT_REST = (
        "doubtful_colours: objects are labelled RGB while two of their channels rest at 128, as "
        "if they were YBR; their images have the label colours"
    )
    VALUES_LEFT_OUT = "values_left_out: frames of velocities or other values are no pictures"


class FrameReader:
    """Decodes single frames of one object; nothing is read before it is asked for."""

    def __init__(self, file: BinaryIO, header: Header, pixels: PixelFormat) -> None:
        """Take an open object.

        Args:
            file: the object, seekable.
            header: its header, with pixel data.
            pixels: its checked pixel format.
        """
        self._file = file
        self._header = header
        self._pixels = pixels
        self._decoder = get_decoder(header.syntax)
        data = header.dataset
        offsets = data.get("ExtendedOffsetTable"), data.get("ExtendedOffsetTableLengths")
        self._offsets = offsets if all(offsets) else None
        self._photometric = pixels.photometric
        self.remarks: set[Remark] = set()
        """What was noticed in the frames that were read so far."""

    def read(self, index: int) -> Pixels:
        """Decode the frame at `index`.

        Returns:
            uint8 `(rows, columns)` or `(rows, columns, 3)` RGB.

        Raises:
            RejectedImageError: the frame contradicts the attributes or cannot be decoded.
        """
        stored = self.read_stored(index)
        data = attributes_of_frame(self._header.dataset, index)
        shown = to_8_bits(stored, data, self._pixels)
        if self._photometric == "RGB" and chroma_rests(shown):
            self.remarks.add(Remark.CHROMA_AT_REST)
        return shown

    def read_stored(self, index: int) -> NDArray[Any]:
        """Decode the frame at `index` to the values that are stored, colours to RGB.

        Returns:
            Any integer type, `(rows, columns)` or `(rows, columns, 3)`.

        Raises:
            RejectedImageError: as of `read`.
        """
        if self._header.is_encapsulated:
            self._check_frame(index)
        stored = self._decode(index)
        shape = (self._pixels.rows, self._pixels.columns, 3)[
            : 2 if self._pixels.samples == 1 else 3
        ]
        if stored.shape != shape:
            raise RejectedImageError(
                f"contradiction: decoded to {stored.shape}, announced as {shape}"
            )
        return stored

    def _check_frame(self, index: int) -> None:
        try:
            frame = get_frame(
                self._pixel_data(),
                index,
                number_of_frames=self._pixels.frames,
                extended_offsets=self._offsets,
            )
        except (ValueError, EOFError) as error:  # pydicom's words on offsets and fragments
            raise RejectedImageError(f"truncated: no frame {index}; {_one_line(error)}") from None
        announced = check_codestream(
            frame,
            self._header.syntax,
            columns=self._pixels.columns,
            rows=self._pixels.rows,
            samples=self._pixels.samples,
            bits_allocated=self._pixels.bits_allocated,
        )
        if (
            announced is not None
            and announced.is_colour_transformed
            and self._pixels.photometric == "YBR_FULL"
        ):  # the decoder would return RGB, and be taken for luminance and chrominance
            raise RejectedImageError(
                "contradiction: JPEG 2000 with a colour transformation of its own and YBR_FULL; "
                "the interpretation should be YBR_RCT or YBR_ICT"
            )
        self._photometric = self._pixels.photometric
        if announced is not None and announced.is_ybr and self._photometric == "RGB":
            self._photometric = "YBR_FULL"
            self.remarks.add(Remark.READ_AS_YBR)

    def _decode(self, index: int) -> NDArray[Any]:
        pixels = self._pixels
        options: dict[str, Any] = {
            "rows": pixels.rows,
            "columns": pixels.columns,
            "samples_per_pixel": pixels.samples,
            "photometric_interpretation": self._photometric,
            "planar_configuration": pixels.planar,
            "number_of_frames": pixels.frames,
            "bits_allocated": pixels.bits_allocated,
            "bits_stored": pixels.bits_stored,
            "pixel_representation": int(pixels.is_signed),
            "pixel_keyword": "PixelData",
            "pixel_vr": self._header.pixel_vr,
        }
        if self._offsets is not None:
            options["extended_offsets"] = self._offsets
        try:
            frame, _ = self._decoder.as_array(self._pixel_data(), index=index, **options)
        except (RuntimeError, ValueError) as error:
            raise RejectedImageError(
                f"unreadable: frame {index} in {self._header.syntax.name}: {_one_line(error)}"
            ) from None
        return frame

    def _pixel_data(self) -> BinaryIO:
        assert self._header.pixel_offset is not None
        self._file.seek(self._header.pixel_offset)
        return self._file


def iter_fragments(file: BinaryIO, header: Header) -> Iterator[bytes]:
    """Yield the fragments of encapsulated pixel data, without the table of offsets before them.

    Raises:
        RejectedImageError: they are damaged.
    """
    assert header.pixel_offset is not None
    file.seek(header.pixel_offset)
    try:
        fragments = generate_fragments(file)
        next(fragments, None)  # the Basic Offset Table, empty or not (PS3.5 annex A.4)
        yield from fragments
    except ValueError as error:
        raise RejectedImageError(f"truncated: {_one_line(error)}") from None


def to_8_bits(stored: NDArray[Any], data: Dataset, pixels: PixelFormat) -> Pixels:
    """Bring stored values to what a viewer shows of them.

    Args:
        stored: `(H, W)` grey values or palette indices, or `(H, W, 3)` RGB, of any integer type.
        data: the attributes that say how they are shown.
        pixels: the pixel format.

    Raises:
        RejectedImageError: the window or the palette makes no sense.
    """
    if pixels.photometric == "PALETTE COLOR":
        return _apply_palette(stored, data)
    if pixels.samples == 3:
        return _scale(stored, 0, 2**pixels.bits_stored - 1)
    first = _first_coloured(data, pixels)
    if first is not None and first <= _stored_range(pixels)[0]:
        return _apply_palette(stored, data)
    shown = _apply_window(stored, data, pixels, below=first)
    if pixels.photometric == "MONOCHROME1":
        shown = np.invert(shown)
    if first is None:
        return shown
    coloured = (stored >= first)[..., None]
    return np.where(coloured, _apply_palette(stored, data), shown[..., None])


def _first_coloured(data: Dataset, pixels: PixelFormat) -> int | None:
    """The first grey value that a supplemental palette turns into a colour; None without one."""
    if pixels.photometric != "MONOCHROME2" or data.get("PixelPresentation") == "MONOCHROME":
        return None
    descriptor = data.get("RedPaletteColorLookupTableDescriptor")
    try:
        return None if descriptor is None else int(descriptor[1])
    except _BAD_ATTRIBUTES as error:
        raise _bad_palette(error) from None


def chroma_rests(shown: Pixels) -> bool:
    """Whether most of a uint8 `(H, W, 3)` picture is grey, if it were YBR, and is no even grey."""
    away = np.abs(shown.astype(np.int16) - _REST)
    rests = (away[..., 1:] <= _REST_TOLERANCE).all(axis=2) & (away[..., 0] > 2 * _REST_TOLERANCE)
    return bool(rests.mean() > 0.5)


def _apply_window(
    stored: NDArray[Any], data: Dataset, pixels: PixelFormat, *, below: int | None = None
) -> Pixels:
    try:
        values = apply_modality_lut(stored, data)
        low, high = _value_range(data, pixels, below)
        if high < low and not _is_windowed(
            data
        ):  # pydicom's windows map to this range in its order
            low, high = high, low
        if data.get("VOILUTSequence"):
            low, high = 0, 2 ** int(data.VOILUTSequence[0].LUTDescriptor[2]) - 1
        values = apply_voi_lut(values, data)
    except _BAD_ATTRIBUTES as error:
        raise RejectedImageError(
            f"bad_window: {type(error).__name__}; correct the VOI LUT, window or rescale attributes"
        ) from None
    if low == high:
        raise RejectedImageError(f"bad_window: values from {low:g} to {high:g}")
    return _scale(values, low, high)


def _stored_range(pixels: PixelFormat) -> tuple[int, int]:
    low = -(2 ** (pixels.bits_stored - 1)) if pixels.is_signed else 0
    return low, low + 2**pixels.bits_stored - 1


def _value_range(
    data: Dataset, pixels: PixelFormat, below: int | None = None
) -> tuple[float, float]:
    """What the lowest and the highest stored value become by the modality transformation.

    Stored values from `below` on are no grey values. By a negative slope the first is the greater.
    """
    if data.get("ModalityLUTSequence"):
        return 0, 2 ** int(data.ModalityLUTSequence[0].LUTDescriptor[2]) - 1
    low, high = _stored_range(pixels)
    high = high if below is None else below - 1
    slope, intercept = data.get("RescaleSlope"), data.get("RescaleIntercept")
    if slope is None or intercept is None:
        return low, high
    return low * float(slope) + float(intercept), high * float(slope) + float(intercept)


def _is_windowed(data: Dataset) -> bool:
    return data.get("WindowCenter") is not None and data.get("WindowWidth") is not None


def _apply_palette(indices: NDArray[Any], data: Dataset) -> Pixels:
    # pydicom refuses supplemental palettes by this attribute; their grey values are not used here
    data = copy_attributes(data, without="PixelPresentation")
    try:
        count, first, _ = (int(part) for part in data["RedPaletteColorLookupTableDescriptor"].value)
        palette = apply_color_lut(np.arange(first, first + (count or 65536)), data)
        colours = apply_color_lut(indices, data)
    except _BAD_ATTRIBUTES as error:
        raise _bad_palette(error) from None
    # some scanners announce 16 bits and write 8
    return _scale(colours, 0, 65535 if palette.max() > 255 else 255)


def _bad_palette(error: Exception) -> RejectedImageError:
    return RejectedImageError(
        f"bad_palette: {type(error).__name__}; correct the palette attributes"
    )


def _scale(values: NDArray[Any], low: float, high: float) -> Pixels:
    """Bring `low` to 0 and `high` to 255, and round."""
    if values.dtype == np.uint8 and (low, high) == (0, 255):
        unchanged: Pixels = np.ascontiguousarray(values)
        return unchanged
    scaled = (values.astype(np.float32) - low) * (255 / (high - low))
    shown: Pixels = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return shown


def _one_line(error: Exception) -> str:
    """What a decoder says; it has seen pixels alone, never a patient's text."""
    return " ".join(str(error).split())[:300]
