"""A bare object whose answer does not say how long it is: it has to end where its elements do.

Such an answer ends with the connection, whoever closed it. Therefore the elements of the file are
walked while its bytes pass by: values are skipped, and nothing is held but a chunk. A file that
ends inside of an element or a sequence was cut off. One that was cut exactly between two elements
is taken, and loses either what follows its pixels or the pixels themselves, without which it
becomes no image; so no image is ever shown in part. Deflated files cannot be walked and count as
cut off; `sonoray.dicom` refuses them anyway.

Source: DICOM PS3.10 section 7.1 (file format), PS3.5 section 7 (elements), annex A (syntaxes).
"""

import struct
from collections.abc import Callable, Iterator

from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian
from pydicom.valuerep import EXPLICIT_VR_LENGTH_16, EXPLICIT_VR_LENGTH_32

_PREAMBLE_BYTES = 132
_UNDEFINED = 0xFFFFFFFF
_SYNTAX = (0x0002, 0x0010)
_LONGEST_UID = 64
_DELIMITERS = ((0xFFFE, 0xE00D), (0xFFFE, 0xE0DD))


class CutOffError(Exception):
    """The answer ended before the object did."""


def next_chunk(chunks: Iterator[bytes]) -> bytes:
    """Return the next chunk.

    Raises:
        CutOffError: there is none.
    """
    chunk = next(chunks, None)
    if chunk is None:
        raise CutOffError
    return chunk


def copy_file(chunks: Iterator[bytes], write: Callable[[bytes], object]) -> None:
    """Write the bytes of a DICOM file, to the end of the chunks.

    Raises:
        CutOffError: the chunks end inside of an element, or are no DICOM file.
    """
    file = _Passing(chunks, write)
    file.skip(_PREAMBLE_BYTES)
    syntax, order, depth = "", "<", 0
    while depth or not file.is_at_end():
        head = file.take(8)
        is_meta = head[:2] == b"\2\0"
        if syntax == ExplicitVRBigEndian and not is_meta:
            order = ">"
        tag = struct.unpack(f"{order}HH", head[:4])
        is_explicit = is_meta or syntax != ImplicitVRLittleEndian
        length = _read_length(file, head, order, is_explicit=is_explicit)
        if tag in _DELIMITERS:
            depth -= 1
        elif length == _UNDEFINED:  # what it holds is walked like the rest
            depth += 1
        elif tag == _SYNTAX and length <= _LONGEST_UID:
            syntax = file.take(length).decode("ascii", "replace").strip("\0 ")
        else:
            file.skip(length)


def _read_length(file: "_Passing", head: bytes, order: str, *, is_explicit: bool) -> int:
    """Length of an element whose first 8 bytes are `head`."""
    vr = head[4:6].decode("latin-1")
    form, data = f"{order}L", head[4:]
    if is_explicit and vr in EXPLICIT_VR_LENGTH_16:
        form, data = f"{order}H", head[6:]
    elif is_explicit and vr in EXPLICIT_VR_LENGTH_32:
        data = file.take(4)
    # items have no representation, nor has what an unknown sequence holds (PS3.5, 6.2.2 and 7.5)
    (length,) = struct.unpack(form, data)
    return int(length)


class _Passing:
    """Chunks that are written as they are read."""

    def __init__(self, chunks: Iterator[bytes], write: Callable[[bytes], object]) -> None:
        self._chunks = chunks
        self._write = write
        self._held = bytearray()

    def is_at_end(self) -> bool:
        """Whether nothing follows; a chunk is never empty."""
        if not self._held:
            self._hold(next(self._chunks, b""))
        return not self._held

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        while len(self._held) < size:
            self._hold(next_chunk(self._chunks))
        taken = bytes(self._held[:size])
        del self._held[:size]
        return taken

    def skip(self, size: int) -> None:
        """Go on after the next `size` bytes."""
        while len(self._held) < size:
            size -= len(self._held)
            self._held.clear()
            self._hold(next_chunk(self._chunks))
        del self._held[:size]

    def _hold(self, chunk: bytes) -> None:
        self._write(chunk)
        self._held += chunk
