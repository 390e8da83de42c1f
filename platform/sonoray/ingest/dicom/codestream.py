"""What a compressed frame says of itself, read before any decoder sees it.

A decoder allocates what the codestream announces, not what the dataset does. A frame whose own
header contradicts the dataset is therefore refused: it is damaged, or made to exhaust memory.

A JPEG's own words on its colours outrank the attributes, too: some writers store luminance and
chrominance and say RGB (red (133, 17, 26) would be shown as (53, 113, 185)).

Sources: JPEG ITU-T T.81 section B.2 (frame header), JFIF T.871, Adobe's APP14 T.872, JPEG-LS T.87
annex C, JPEG 2000 T.800 annex A (SIZ, COD) and annex I (the JP2 container), HTJ2K T.814, RLE DICOM
PS3.5 annex G.5.
"""

import struct
from dataclasses import dataclass

from pydicom.uid import UID, JPEG2000TransferSyntaxes, RLELossless

from sonoray.images.decode import RejectedImageError

_JPEG_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xF7})
"""SOF0 to SOF3 and JPEG-LS's SOF55; hierarchical and arithmetic coding are not in DICOM."""
_OTHER_FRAMES = frozenset(range(0xC5, 0xD0)) - {0xC8, 0xCC}
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})


@dataclass(frozen=True, kw_only=True, slots=True)
class Codestream:
    """Geometry that a codestream announces."""

    columns: int
    rows: int
    samples: int
    precision: int
    """Bits per sample."""
    is_colour_transformed: bool = False
    """JPEG 2000: whether decoding turns luminance and chrominance into RGB."""
    is_ybr: bool = False
    """JPEG: whether it can hold luminance and chrominance alone: it has fewer samples of the second
    and third component than of the first, or the marker of JFIF, or Adobe's of a transformation."""


def check_codestream(
    frame: bytes, syntax: UID, *, columns: int, rows: int, samples: int, bits_allocated: int
) -> Codestream | None:
    """Hold a compressed frame to the dataset's geometry.

    Returns:
        What the frame announces; None for RLE, which announces nothing but its segments.

    Raises:
        RejectedImageError: it says something else, or has no readable header.
    """
    if syntax == RLELossless:
        _check_rle(frame, segments=samples * bits_allocated // 8)
        return None
    try:
        read = read_jpeg2000 if syntax in JPEG2000TransferSyntaxes else read_jpeg
        announced = read(frame)
    except (struct.error, IndexError):
        raise RejectedImageError(
            "unreadable: a compressed frame ends within its own header; export the object again"
        ) from None
    stated = (columns, rows, samples)
    found = (announced.columns, announced.rows, announced.samples)
    if found != stated or announced.precision > bits_allocated:
        raise RejectedImageError(
            "contradiction: the compressed frame is {} x {} x {} of {} bits, the attributes say "
            "{} x {} x {} of {} bits; the object is damaged or hostile".format(
                *found, announced.precision, *stated, bits_allocated
            )
        )
    return announced


def read_jpeg(frame: bytes) -> Codestream:
    """Read the frame header of a JPEG or JPEG-LS codestream.

    Raises:
        RejectedImageError: there is none, or one of a process that DICOM does not have.
        IndexError, struct.error: the codestream ends before it.
    """
    if frame[:2] != b"\xff\xd8":
        raise RejectedImageError("unreadable: a compressed frame is no JPEG; export it again")
    position = 2
    is_ybr = False
    while True:
        if frame[position] != 0xFF:
            raise RejectedImageError("unreadable: a JPEG frame lacks a marker; export it again")
        marker = frame[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
        elif marker in _STANDALONE:
            position += 2
        elif marker in _JPEG_FRAMES:
            precision, rows, columns, samples = struct.unpack_from(">BHHB", frame, position + 4)
            parts = [frame[position + 10 + 3 * number :][:2] for number in range(samples)]
            is_rgb = samples == 3 and bytes(part[0] for part in parts) in (b"RGB", b"rgb")
            return Codestream(
                columns=columns,
                rows=rows,
                samples=samples,
                precision=precision,
                is_ybr=not is_rgb and (is_ybr or len({part[1] for part in parts}) > 1),
            )
        elif marker in _OTHER_FRAMES or marker in (0xD9, 0xDA):  # EOI, SOS: too late
            raise RejectedImageError("unreadable: a JPEG frame has no header that DICOM allows")
        else:
            (length,) = struct.unpack_from(">H", frame, position + 2)
            segment = frame[position + 4 : position + 2 + length]
            if marker == 0xE0 and segment.startswith(b"JFIF"):
                is_ybr = True
            elif marker == 0xEE and segment.startswith(b"Adobe"):
                is_ybr = segment[11] == 1
            position += 2 + length


def read_jpeg2000(frame: bytes) -> Codestream:
    """Read SIZ and COD of a JPEG 2000 codestream, bare or within a JP2 container.

    Raises:
        RejectedImageError: there is none.
        IndexError, struct.error: the codestream ends before them.
    """
    start = 0 if frame[:4] == b"\xff\x4f\xff\x51" else frame.find(b"\xff\x4f\xff\x51")
    if start < 0 or (start > 0 and frame[4:8] != b"jP  "):
        raise RejectedImageError("unreadable: a compressed frame is no JPEG 2000; export it again")
    length, _, right, lower, left, upper = struct.unpack_from(">HHLLLL", frame, start + 4)
    (samples,) = struct.unpack_from(">H", frame, start + 4 + 36)
    parts = [frame[start + 4 + 38 + 3 * number] for number in range(samples)]
    position = start + 4 + length
    is_transformed = False
    while frame[position : position + 2] not in (b"\xff\x90", b""):  # the first tile-part
        marker, length = struct.unpack_from(">HH", frame, position)
        if marker == 0xFF52:
            is_transformed = frame[position + 8] == 1
        position += 2 + length
    return Codestream(
        columns=right - left,
        rows=lower - upper,
        samples=samples,
        precision=max(((part & 0x7F) + 1 for part in parts), default=0),
        is_colour_transformed=is_transformed,
    )


def _check_rle(frame: bytes, *, segments: int) -> None:
    found = int.from_bytes(frame[:4], "little")
    if len(frame) < 64 or found != segments:
        raise RejectedImageError(
            f"contradiction: an RLE frame of {len(frame)} bytes has {found} segments, the "
            f"attributes ask for {segments}; the object is damaged or hostile"
        )
