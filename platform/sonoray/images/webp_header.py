"""What a WebP file says of itself, read before any decoder sees it.

Pillow's plugin allocates the canvas that a file announces when it is opened, up to 16,384 x 16,384
pixels, so that its size has to be known before. Three kinds of chunk may come first in the
container (RFC 9649): `VP8X` with the canvas and flags, `VP8 ` with a lossy frame, `VP8L` with a
lossless one.
"""

from dataclasses import dataclass

from sonoray.images.decode import ImageLimits, RejectedImageError, check_geometry

_LEAST_BYTES = 30
"""Of every header below: 12 of the container, 8 of the chunk, 10 of its own."""
_ANIMATED = 0x02
"""Flag of `VP8X`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WebpHeader:
    """Canvas of a WebP file, in pixels."""

    width: int
    height: int
    is_animated: bool = False


def is_webp(data: bytes) -> bool:
    """Whether these bytes are of a WebP container."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def check_webp(data: bytes, limits: ImageLimits) -> None:
    """Refuse a WebP file by what its container says; other files pass.

    Raises:
        RejectedImageError: `unreadable`, `too_many_pixels`, `too_small` or `multi_frame`.
    """
    if not is_webp(data):
        return
    try:
        header = read_webp_header(data)
    except ValueError as error:
        raise RejectedImageError(f"unreadable: {error}; export the picture again") from None
    check_geometry(header.width, header.height, limits)
    if header.is_animated:
        raise RejectedImageError("multi_frame: an animation; export its frames singly")


def read_webp_header(data: bytes) -> WebpHeader:
    """Read the canvas.

    Args:
        data: the file's bytes, for which `is_webp` holds.

    Raises:
        ValueError: the file is cut short, or begins with no chunk of an image.
    """
    if len(data) < _LEAST_BYTES:
        raise ValueError(f"{len(data)} bytes are no whole WebP header")
    kind, body = data[12:16], data[20:30]
    if kind == b"VP8X":
        return WebpHeader(
            width=1 + int.from_bytes(body[4:7], "little"),
            height=1 + int.from_bytes(body[7:10], "little"),
            is_animated=bool(body[0] & _ANIMATED),
        )
    if kind == b"VP8L" and body[0] == 0x2F:
        sides = int.from_bytes(body[1:5], "little")
        return WebpHeader(width=1 + (sides & 0x3FFF), height=1 + (sides >> 14 & 0x3FFF))
    if kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a":
        return WebpHeader(
            width=int.from_bytes(body[6:8], "little") & 0x3FFF,
            height=int.from_bytes(body[8:10], "little") & 0x3FFF,
        )
    raise ValueError("it begins with no image chunk of WebP")
