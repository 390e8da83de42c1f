"""From a frame of whatever coding to 8 bits: uint8, `(H, W)` or `(H, W, 3)` RGB.

pydicom and the pylibjpeg plugins decode, and pydicom converts YBR to RGB, applies palettes, rescale
and windows. Chosen here is what 8 bits show of deeper values: the object's window (VOI LUT, or
window centre and width; the first where there are several), else the full range of the bits stored.
The values' own minimum and maximum are not used: they would make one brightness mean different
things in different frames. MONOCHROME1 is inverted, so that more is always brighter.

Sources: DICOM PS3.3 sections C.7.6.3 (Image Pixel), C.11.1 (Modality LUT), C.11.2 (VOI LUT).
"""

from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut

from sonoray.images.decode import Pixels, RejectedImageError
from sonoray.ingest.dicom.codestream import check_codestream
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

    def read(self, index: int) -> Pixels:
        """Decode the frame at `index`.

        Returns:
            uint8 `(rows, columns)` or `(rows, columns, 3)` RGB.

        Raises:
            RejectedImageError: the frame contradicts the attributes or cannot be decoded.
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
        return to_8_bits(stored, self._header.dataset, self._pixels)

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

    def _decode(self, index: int) -> NDArray[Any]:
        pixels = self._pixels
        options: dict[str, Any] = {
            "rows": pixels.rows,
            "columns": pixels.columns,
            "samples_per_pixel": pixels.samples,
            "photometric_interpretation": pixels.photometric,
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
    shown = _apply_window(stored, data, pixels)
    return np.invert(shown) if pixels.photometric == "MONOCHROME1" else shown


def _apply_window(stored: NDArray[Any], data: Dataset, pixels: PixelFormat) -> Pixels:
    try:
        values = apply_modality_lut(stored, data)
        low, high = _value_range(data, pixels)
        if data.get("VOILUTSequence"):
            low, high = 0, 2 ** int(data.VOILUTSequence[0].LUTDescriptor[2]) - 1
        values = apply_voi_lut(values, data)
    except _BAD_ATTRIBUTES as error:
        raise RejectedImageError(
            f"bad_window: {type(error).__name__}; correct the VOI LUT, window or rescale attributes"
        ) from None
    if not low < high:
        raise RejectedImageError(f"bad_window: values from {low:g} to {high:g}")
    return _scale(values, low, high)


def _value_range(data: Dataset, pixels: PixelFormat) -> tuple[float, float]:
    """Lowest and highest value after the modality transformation, as PS3.3 C.11.2.1.2 has it."""
    if data.get("ModalityLUTSequence"):
        return 0, 2 ** int(data.ModalityLUTSequence[0].LUTDescriptor[2]) - 1
    low = -(2 ** (pixels.bits_stored - 1)) if pixels.is_signed else 0
    high = low + 2**pixels.bits_stored - 1
    slope, intercept = data.get("RescaleSlope"), data.get("RescaleIntercept")
    if slope is None or intercept is None:
        return low, high
    return low * float(slope) + float(intercept), high * float(slope) + float(intercept)


def _apply_palette(indices: NDArray[Any], data: Dataset) -> Pixels:
    try:
        count, first, _ = (int(part) for part in data["RedPaletteColorLookupTableDescriptor"].value)
        palette = apply_color_lut(np.arange(first, first + (count or 65536)), data)
        colours = apply_color_lut(indices, data)
    except _BAD_ATTRIBUTES as error:
        raise RejectedImageError(
            f"bad_palette: {type(error).__name__}; correct the palette attributes"
        ) from None
    # some scanners announce 16 bits and write 8
    return _scale(colours, 0, 65535 if palette.max() > 255 else 255)


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
