"""The folder where fetched objects wait until the dataset is made: whole files, or none.

It holds patients' data as the server gave them: mode 0700, names are keyed hashes, and it goes when
the dataset is complete. A file gets its name when it is complete and on disk, so that another try
after a crash finds whole objects and fetches the rest. One process at a time has a spool; the
kernel frees it when that ends, whatever ends it.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from sonoray.errors import DataError
from sonoray.images.decode import RejectedImageError

_LOCK = ".lock"
_PARTIAL = ".partial"


class Spool:
    """Objects on disk, by SOP Instance UID; all methods may be called from several threads."""

    def __init__(
        self,
        folder: Path,
        name_of: Callable[[str], str],
        *,
        max_object_bytes: int,
        max_bytes: int,
    ) -> None:
        """Use `open_spool`, which locks the folder first."""
        self.folder = folder
        self._name_of = name_of
        self._max_object_bytes = max_object_bytes
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._size_bytes = 0
        for path in folder.iterdir():
            if path.suffix == _PARTIAL:
                path.unlink()
            else:
                self._size_bytes += path.stat().st_size

    def path(self, uid: str) -> Path:
        """Where an object lies, or would lie."""
        return self.folder / self._name_of(uid)

    def has(self, uid: str) -> bool:
        """Whether an object is there, whole."""
        return self.path(uid).exists()

    def head(self, uid: str, size_bytes: int) -> bytes:
        """The beginning of an object."""
        with self.path(uid).open("rb") as file:
            return file.read(size_bytes)

    def add(self, uid: str, copy: Callable[[Callable[[bytes], None]], None]) -> None:
        """Write an object whole, or nothing.

        Args:
            uid: of the object.
            copy: calls the function that it is given with the object's bytes, piece by piece.

        Raises:
            RejectedImageError: the object is too large.
            DataError: the spool is full, or the disk.
        """
        final = self.path(uid)
        partial = final.with_name(final.name + _PARTIAL)
        size = 0

        def write(data: bytes) -> None:
            nonlocal size
            if size + len(data) > self._max_object_bytes:
                raise RejectedImageError(
                    f"too_many_bytes: more than {self._max_object_bytes:,} bytes; raise "
                    "dicom.limits.max_object_bytes"
                )
            size += len(data)
            self._grow(len(data))
            file.write(data)

        try:
            with self._explain(), _create(partial) as file:
                copy(write)
                file.flush()
                os.fsync(file.fileno())
                partial.replace(final)
        except BaseException:
            self._grow(-size)
            partial.unlink(missing_ok=True)
            raise

    def remove(self) -> None:
        """Remove all objects, and the folder."""
        for path in self.folder.iterdir():
            path.unlink()
        with contextlib.suppress(OSError):  # network file systems keep the open lock a little
            self.folder.rmdir()

    def _grow(self, size: int) -> None:
        with self._lock:
            self._size_bytes += size
            is_full = size > 0 and self._size_bytes > self._max_bytes
        if is_full:
            raise DataError(
                f"the spool {str(self.folder)!r} would hold more than {self._max_bytes:,} bytes; "
                "raise dicomweb.max_spool_bytes, or ask for fewer studies with --query"
            )

    @contextlib.contextmanager
    def _explain(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(
                f"the spool {str(self.folder)!r} cannot be written ({error.strerror}); make room, "
                "or choose another --workspace"
            ) from None


@contextlib.contextmanager
def open_spool(
    folder: Path, name_of: Callable[[str], str], *, max_object_bytes: int, max_bytes: int
) -> Iterator[Spool]:
    """Yield the spool in `folder`, which is made where it does not exist.

    Raises:
        DataError: another process uses it, or it cannot be made.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        lock = FileLock(folder / _LOCK, mode=0o600, fallback_to_soft=False)
        held = lock.acquire(timeout=0)
    except Timeout:
        raise DataError(
            f"another ingest uses the spool {str(folder)!r}; wait for it, or give this one another "
            "--name"
        ) from None
    except OSError as error:
        raise DataError(
            f"the spool {str(folder)!r} cannot be made ({error.strerror}); choose another "
            "--workspace"
        ) from None
    with held:
        yield Spool(folder, name_of, max_object_bytes=max_object_bytes, max_bytes=max_bytes)


def _create(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")
