"""Safe decoding of untrusted image bytes, canonical PNG encoding, and the identity of an image.

Ingest and the serving ingress both receive bytes from outside. `decode_image` reads the header
first and refuses by size, format and geometry before a single pixel is allocated: a PNG of 65
bytes that announces 65,000 x 65,000 colour pixels leaves the peak memory of the process where it
was (0 KiB more, measured) instead of asking for 12.7 GB.

Pixels are canonical after decoding: `uint8`, `(H, W)` for greyscale (also where a colour file
holds three equal channels) or `(H, W, 3)` RGB, turned upright by EXIF. The same picture stored in
two lossless formats therefore has one `image_id`. Transparent pixels are laid over black
(`transparency`), and a picture without any other is refused. So are images deeper than 8 bits
instead of being clipped: choosing the window is the work of a DICOM source.

PNG level 1 is the stored form: on 100 breast images of 224 px it took 0.18 s and 2.45 MB against
0.41 s and 2.18 MB at Pillow's default level 6.
"""

import hashlib
import io
import os
import re
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from pydantic import Field

from sonoray.config.model import Config
from sonoray.errors import DataError
from sonoray.images.transparency import over_black

Pixels = npt.NDArray[np.uint8]
"""An image: uint8, `(H, W)` or `(H, W, 3)` RGB."""

_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    EOFError,
    LookupError,
    OverflowError,
)
"""What Pillow's parsers raise on damaged files: the first five came up in 60,000 files with bytes
flipped, the others stand in the parsers' sources."""

_DEEP_RAW_MODE = re.compile(r";16[BLN]")
"""Pillow's names of layouts of 16 bits per channel in a file; it keeps the high byte of colours."""
_GREY_MODES = frozenset({"1", "L", "LA", "La"})
_COLOUR_MODES = frozenset({"RGB", "RGBA", "RGBa", "RGBX", "P", "PA", "CMYK", "YCbCr"})


class ImageLimits(Config):
    """What is accepted as an image."""

    max_bytes: int = Field(default=32_000_000, gt=0)
    """Largest encoded size in bytes."""
    max_pixels: int = Field(default=25_000_000, gt=0)
    """Largest width x height; 25 million is 5,000 x 5,000, above every ultrasound machine."""
    min_side: int = Field(default=16, ge=16)
    """Shortest admissible side in pixels; the towers take nothing below 16."""
    formats: tuple[str, ...] = ("JPEG", "PNG", "BMP")
    """Pillow format names that may be decoded; no other decoder sees the bytes. TIFF can be added
    for a trusted source (libtiff is a large surface, and writes its complaints to stderr); WEBP
    where `images.webp_header` has seen the bytes before, since its plugin allocates the announced
    canvas when it opens a file."""


DEFAULT_LIMITS = ImageLimits()
_STORED = ImageLimits(max_bytes=sys.maxsize, max_pixels=sys.maxsize, formats=("PNG",))


PASSING_REASONS = frozenset(
    {"timeout", "decoder_crashed", "out_of_memory", "unreadable_file", "unreadable_folder"}
)
"""Reasons that tell of the machine or the disk at that moment, as a file on a network that was gone
or a process that the kernel killed: the same bytes may be accepted the next time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoded:
    """A picture as it was decoded."""

    pixels: Pixels
    is_transparent: bool = False
    """Whether some of its pixels were transparent; they were laid over black."""


class RejectedImageError(DataError):
    """An image that is not accepted; the message is `<reason>: <detail>`.

    Reasons: `empty_file`, `too_many_bytes`, `unknown_format`, `too_many_pixels`, `too_small`,
    `multi_frame`, `unsupported_mode`, `unreadable`, `transparent`; elsewhere also
    `PASSING_REASONS` and others.
    """

    @property
    def reason(self) -> str:
        """The machine-readable code before the first colon, for the quarantine table."""
        return str(self.args[0]).partition(":")[0]


def decode_image(data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> Pixels:
    """Decode an encoded image, header first; see `decode_picture`.

    Returns:
        uint8 array, `(H, W)` or `(H, W, 3)`.

    Raises:
        RejectedImageError: as `decode_picture`.
    """
    return decode_picture(data, limits).pixels


def decode_picture(
    data: bytes, limits: ImageLimits = DEFAULT_LIMITS, *, may_be_empty: bool = False
) -> Decoded:
    """Decode an encoded image, header first, and tell whether it was transparent.

    Args:
        data: the file's bytes.
        limits: what is accepted.
        may_be_empty: whether every pixel may be transparent, as in the mask of no lesion.

    Raises:
        RejectedImageError: with the reason, for anything that is not one intact 8-bit image
            within the limits.
    """
    if not data:
        raise RejectedImageError("empty_file: the image has 0 bytes; send the encoded file")
    _check_size(len(data), limits)
    try:
        with Image.open(io.BytesIO(data), formats=limits.formats) as image:
            _check_header(image, limits)
            decoded = _to_pixels(ImageOps.exif_transpose(image))
    except RejectedImageError:
        raise
    except Image.DecompressionBombError:
        raise RejectedImageError(
            f"too_many_pixels: the header announces more than {limits.max_pixels:,} pixels; "
            "scale the image down"
        ) from None
    except UnidentifiedImageError:
        raise RejectedImageError(
            f"unknown_format: {len(data):,} bytes that are none of {', '.join(limits.formats)}"
        ) from None
    except _DECODE_ERRORS as error:
        detail = str(error) or type(error).__name__
        raise RejectedImageError(
            f"unreadable: {detail}; the file is damaged or incomplete, export it again"
        ) from None
    if decoded.is_transparent and not (may_be_empty or decoded.pixels.any()):
        raise RejectedImageError(
            "transparent: no visible pixel is other than black; export the picture without its "
            "alpha channel"
        )
    return decoded


def decode_file(path: Path, limits: ImageLimits = DEFAULT_LIMITS) -> Pixels:
    """Decode an image file as `decode_image` does; one that is too large is not read.

    Raises:
        RejectedImageError: also with `unreadable_file`.
    """
    return decode_image(read_bytes(path, limits), limits)


def read_bytes(path: Path, limits: ImageLimits = DEFAULT_LIMITS) -> bytes:
    """Read an image file, unless it is too large.

    Raises:
        RejectedImageError: `unreadable_file` or `too_many_bytes`.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            _check_size(size, limits)
            return file.read(size)
    except OSError as error:
        raise RejectedImageError(
            f"unreadable_file: it cannot be read ({error.strerror}); check its rights"
        ) from None


def decode_stored(png: bytes) -> Pixels:
    """Decode a PNG of the image table, whatever the limits were under which ingest accepted it.

    Raises:
        RejectedImageError: the table was damaged since.
    """
    return decode_image(png, _STORED)


def check_pixels(array: npt.NDArray[Any], limits: ImageLimits = DEFAULT_LIMITS) -> Pixels:
    """Hold an array that a source decoded itself to the same contract as `decode_image`.

    Raises:
        RejectedImageError: wrong dtype or shape, too small or too large.
    """
    grey_or_rgb = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)
    if array.dtype != np.uint8 or not grey_or_rgb:
        raise RejectedImageError(
            f"unsupported_mode: array of {array.dtype} with shape {array.shape}; "
            "give uint8 (H, W) or (H, W, 3)"
        )
    check_geometry(array.shape[1], array.shape[0], limits)
    return _canonical(array)


def encode_png(array: Pixels) -> bytes:
    """Encode a uint8 `(H, W)` or `(H, W, 3)` array losslessly."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def image_id(array: Pixels) -> str:
    """Sha256 (hex) over the shape and the pixels of a uint8 array."""
    digest = hashlib.sha256(f"uint8{array.shape}".encode())
    digest.update(array.tobytes())
    return digest.hexdigest()


def _check_size(size: int, limits: ImageLimits) -> None:
    if size > limits.max_bytes:
        raise RejectedImageError(
            f"too_many_bytes: {size:,} bytes, at most {limits.max_bytes:,}; "
            "store it smaller or raise ingest.images.max_bytes"
        )


def _check_header(image: ImageFile.ImageFile, limits: ImageLimits) -> None:
    """Refuse by what the header says; no pixel has been decoded yet."""
    if image.format not in limits.formats:  # an MPO hides behind JPEG's magic bytes
        raise RejectedImageError(
            f"unknown_format: {image.format}; accepted are {', '.join(limits.formats)}"
        )
    check_geometry(image.width, image.height, limits)
    frames = getattr(image, "n_frames", 1)
    if frames != 1:
        raise RejectedImageError(f"multi_frame: {frames} frames in one file; export them singly")
    is_deep = any(_DEEP_RAW_MODE.search(str(tile.args)) for tile in image.tile)
    if is_deep or image.mode not in _GREY_MODES | _COLOUR_MODES:
        what = f"{image.mode} of 16 bits per channel" if is_deep else image.mode
        raise RejectedImageError(
            f"unsupported_mode: {what} is not 8-bit; window it to 8-bit grey or RGB first"
        )


def check_geometry(width: int, height: int, limits: ImageLimits) -> None:
    """Refuse a picture by its sides in pixels.

    Raises:
        RejectedImageError: `too_many_pixels` or `too_small`.
    """
    if width * height > limits.max_pixels:
        raise RejectedImageError(
            f"too_many_pixels: {width} x {height}, at most {limits.max_pixels:,}; "
            "scale the image down"
        )
    if min(width, height) < limits.min_side:
        raise RejectedImageError(
            f"too_small: {width} x {height}, each side needs at least {limits.min_side} pixels"
        )


def _to_pixels(image: Image.Image) -> Decoded:
    if image.has_transparency_data:
        if image.mode in ("La", "RGBa"):  # premultiplied, which Pillow turns to no other mode
            image = image.convert(image.mode.upper())
        channels = np.asarray(image.convert("RGBA"))
        colours, alpha = channels[..., :3], channels[..., 3]
        if (alpha < 255).any():
            return Decoded(pixels=_canonical(over_black(colours, alpha)), is_transparent=True)
    mode = "L" if image.mode in _GREY_MODES else "RGB"
    pixels = _canonical(np.asarray(image if image.mode == mode else image.convert(mode)))
    return Decoded(pixels=pixels)


def _canonical(array: Pixels) -> Pixels:
    """Drop the channel axis of a colour array whose channels are all equal."""
    if array.ndim == 3 and _equal_channels([array[..., c] for c in range(3)]):
        array = array[..., 0]
    return np.ascontiguousarray(array)


def _equal_channels(channels: Sequence[Pixels]) -> bool:
    return all(np.array_equal(channels[0], channel) for channel in channels[1:])
