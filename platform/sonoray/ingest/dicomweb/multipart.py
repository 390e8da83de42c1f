"""The one object of a WADO-RS answer, streamed: `multipart/related`, or the object bare.

Nothing is held but a chunk and the length of a delimiter. The answer has to end as RFC 2046
section 5.1.1 says, so that one that was cut off is never taken for an object; a bare object has to
announce its length.
"""

from collections.abc import Callable, Iterator
from email.message import Message

_MAX_HEAD_BYTES = 65_536
"""Most bytes before the object begins."""


class CutOffError(Exception):
    """The answer ended before the object did."""


class NoObjectError(Exception):
    """The answer is complete and not one DICOM object; the message says what it is."""


def copy_object(
    content_type: str,
    chunks: Iterator[bytes],
    write: Callable[[bytes], object],
    *,
    is_announced: bool,
) -> None:
    """Write the bytes of the object that an answer holds.

    Args:
        content_type: the answer's header.
        chunks: the answer's body.
        write: takes the object's bytes, piece by piece.
        is_announced: whether the chunks fail where the body ends early (`Answer.is_announced`).

    Raises:
        CutOffError: the body ends early.
        NoObjectError: it holds something else, or several objects.
    """
    header = Message()
    header["Content-Type"] = content_type
    media_type, boundary = header.get_content_type(), header.get_boundary()
    if not content_type:
        raise NoObjectError("an answer without a content type")
    if media_type == "application/dicom":  # against PS3.18, but seen
        if not is_announced:  # it ends with the connection, and whoever closed that is unknown
            raise CutOffError
        for chunk in chunks:
            write(chunk)
    elif media_type == "multipart/related" and boundary:
        _copy_part(f"\r\n--{boundary}".encode(), chunks, write)
    else:
        raise NoObjectError("another content type")


def _copy_part(delimiter: bytes, chunks: Iterator[bytes], write: Callable[[bytes], object]) -> None:
    held = bytearray(b"\r\n")  # so that the first delimiter looks like the others
    _read_until(delimiter, held, chunks)
    if held[:2] == b"--":
        raise NoObjectError("an answer without an object")
    _read_until(b"\r\n\r\n", held, chunks)
    while (end := held.find(delimiter)) < 0:
        safe = max(len(held) - len(delimiter) + 1, 0)  # the rest may be the delimiter's beginning
        write(bytes(held[:safe]))
        del held[:safe]
        held += _next(chunks)
    write(bytes(held[:end]))
    del held[: end + len(delimiter)]
    while len(held) < 2:
        held += _next(chunks)
    if held[:2] != b"--":
        raise NoObjectError("an answer of several parts")
    for _ in chunks:  # to the end, where the announced length is checked
        pass


def _read_until(mark: bytes, held: bytearray, chunks: Iterator[bytes]) -> None:
    """Drop everything up to and including `mark` from `held`, which grows where it has to."""
    while (found := held.find(mark)) < 0:
        if len(held) > _MAX_HEAD_BYTES:
            raise NoObjectError("a multipart answer without its own delimiter")
        held += _next(chunks)
    del held[: found + len(mark)]


def _next(chunks: Iterator[bytes]) -> bytes:
    chunk = next(chunks, None)
    if chunk is None:
        raise CutOffError
    return chunk
