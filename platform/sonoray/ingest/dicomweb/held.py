"""Fetched objects in memory, for who looks at one study and keeps nothing of it.

A service that is asked about a study has no business with a patient's files on its disk, so they
are held here in place of the spool (`sonoray.ingest.dicomweb.spool`) for as long as it takes to
decode them, under a cap on all of them together.
"""

import threading
from collections.abc import Callable

from sonoray.errors import DataError
from sonoray.images.decode import RejectedImageError


class HeldObjects:
    """Objects in memory, by SOP Instance UID; all methods may be called from several threads."""

    def __init__(self, *, max_object_bytes: int, max_bytes: int) -> None:
        """Hold nothing yet.

        Args:
            max_object_bytes: of one object; a larger one is refused.
            max_bytes: of all of them; more is an error.
        """
        self._max_object_bytes = max_object_bytes
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._size_bytes = 0
        self._objects: dict[str, bytes] = {}
        self.is_full = False
        """Whether there were more bytes than it may hold."""

    def has(self, uid: str) -> bool:
        """Whether an object is there, whole."""
        return uid in self._objects

    def head(self, uid: str, size_bytes: int) -> bytes:
        """The beginning of an object."""
        return self._objects[uid][:size_bytes]

    def get(self, uid: str) -> bytes:
        """An object."""
        return self._objects[uid]

    def add(self, uid: str, copy: Callable[[Callable[[bytes], None]], None]) -> None:
        """Take an object whole, or nothing; see `Spool.add`.

        Raises:
            RejectedImageError: the object is too large.
            DataError: all of them are.
        """
        held = bytearray()

        def write(data: bytes) -> None:
            if len(held) + len(data) > self._max_object_bytes:
                raise RejectedImageError(
                    f"too_many_bytes: more than {self._max_object_bytes:,} bytes"
                )
            self._grow(len(data))
            held.extend(data)

        try:
            copy(write)
        except BaseException:
            self._grow(-len(held))
            raise
        with self._lock:
            replaced = self._objects.get(uid, b"")
            self._objects[uid] = bytes(held)
            self._size_bytes -= len(replaced)

    def _grow(self, size: int) -> None:
        with self._lock:
            if self._size_bytes + size > self._max_bytes:
                self.is_full = True
                raise DataError(f"the study has more than {self._max_bytes:,} bytes; ask for less")
            self._size_bytes += size
