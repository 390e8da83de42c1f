"""Where objects lie: a folder of any depth, or a zip archive, which is read and never unpacked.

An archive's names are only names here: nothing is written, so no path can lead anywhere. What an
entry announces is checked before it is read, and reading stops at what it announced.
"""

import io
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from sonoray.errors import DataError
from sonoray.files.folders import list_files
from sonoray.images.decode import RejectedImageError
from sonoray.images.sandbox import GuardedPool
from sonoray.ingest.dicom.dicom_config import DicomLimits

_ENCRYPTED = 0x1
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""The others unpack a whole chunk at once, however large it becomes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileEntry:
    """A file of a folder."""

    path: Path
    ref: str
    """The path below the folder, in characters that can be hashed whatever the file's name is."""
    max_bytes: int
    problem: str = ""
    """`reason: detail` where it is no file, but hides some (`sonoray.files.folders`)."""

    def open(self) -> BinaryIO:
        """Open the file.

        Raises:
            RejectedImageError: it is too large, or cannot be opened.
        """
        if self.problem:
            raise RejectedImageError(self.problem)
        try:
            _check_size(self.path.stat().st_size, self.max_bytes)
            return self.path.open("rb")
        except OSError as error:
            raise RejectedImageError(
                f"unreadable_file: it cannot be opened ({error.strerror}); check its rights"
            ) from None


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchiveEntry:
    """An entry of a zip archive."""

    archive: Path
    position: int
    """Which entry; names may repeat."""
    ref: str
    max_bytes: int

    def open(self) -> BinaryIO:
        """Unpack the entry into memory.

        Raises:
            RejectedImageError: it is too large, encrypted, damaged, or packed in another way.
        """
        archive = _open_archive(self.archive)
        entry = archive.infolist()[self.position]
        if entry.flag_bits & _ENCRYPTED:
            raise RejectedImageError("encrypted: the archive's entry needs a password; unpack it")
        if entry.compress_type not in _METHODS:
            raise RejectedImageError(
                f"unsupported_compression: zip method {entry.compress_type}; store or deflate"
            )
        _check_size(entry.file_size, self.max_bytes)
        try:
            with archive.open(entry) as file:
                # zipfile unpacks as much as is asked for, and hands out as much as is announced
                data = file.read(entry.file_size)
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError) as error:
            raise RejectedImageError(
                f"unreadable: {type(error).__name__} in the archive; pack it again"
            ) from None
        return io.BytesIO(data)


@dataclass(frozen=True, kw_only=True, slots=True)
class BytesEntry:
    """An object that is in memory."""

    ref: str
    data: bytes
    max_bytes: int

    def open(self) -> BinaryIO:
        """Return the bytes as a file.

        Raises:
            RejectedImageError: there are too many.
        """
        _check_size(len(self.data), self.max_bytes)
        return io.BytesIO(self.data)


def list_entries(path: Path, limits: DicomLimits) -> Iterator[FileEntry | ArchiveEntry]:
    """Yield what lies in a folder, or in an archive, in an order that does not change.

    Raises:
        DataError: the path is neither, as a single object, or the archive is damaged or above the
            limits.
    """
    if path.is_dir():
        yield from _list_folder(path, limits)
    elif _is_object(path):
        raise DataError(
            f"{str(path)!r} is a single DICOM object; give the folder that holds it, or a zip"
        )
    elif path.is_file():
        yield from _list_archive(path, limits)
    else:
        raise DataError(
            f"no folder or zip archive {str(path)!r}; give the one that has the objects"
        )


def _is_object(path: Path) -> bool:
    """Whether a file calls itself a DICOM object, by its ending or its preamble (PS3.10, 7.1)."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return path.suffix.lower() == ".dcm" or file.read(132)[128:] == b"DICM"
    except OSError:  # reading it as an archive says so
        return False


def _list_folder(folder: Path, limits: DicomLimits) -> Iterator[FileEntry]:
    for found in list_files(folder):
        yield FileEntry(
            path=found.path,
            ref=found.ref,
            max_bytes=limits.max_object_bytes,
            problem=found.problem,
        )


def _list_archive(path: Path, limits: DicomLimits) -> Iterator[ArchiveEntry]:
    # the directory is a stranger's, too, and zipfile holds all of it before it can be counted
    with GuardedPool(
        workers=1, memory_bytes=limits.worker_memory_bytes, timeout_s=limits.worker_timeout_s
    ) as pool:
        try:
            entries = pool.submit(_read_directory, path).result()
        except RejectedImageError as error:
            raise DataError(
                f"{str(path)!r} is no zip archive that can be read ({error}); give a folder or a "
                ".zip"
            ) from None
    total = sum(size for _, size in entries)
    if len(entries) > limits.max_entries or total > limits.max_archive_bytes:
        raise DataError(
            f"archive {str(path)!r} has {len(entries):,} entries of {total:,} bytes, at most "
            f"{limits.max_entries:,} and {limits.max_archive_bytes:,}; split it, or raise "
            "dicom.limits.max_entries and dicom.limits.max_archive_bytes"
        )
    for position, (name, _) in enumerate(entries):
        if not name.endswith("/"):
            yield ArchiveEntry(
                archive=path,
                position=position,
                ref=name,
                max_bytes=limits.max_object_bytes,
            )


def _read_directory(path: Path) -> list[tuple[str, int]]:
    """Name and unpacked size of each entry of an archive; a folder's name ends with a slash."""
    with zipfile.ZipFile(path) as archive:
        return [(entry.filename, entry.file_size) for entry in archive.infolist()]


@lru_cache(maxsize=1)
def _open_archive(path: Path) -> zipfile.ZipFile:
    """Open an archive once per process; its directory may be long."""
    return zipfile.ZipFile(path)


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise RejectedImageError(
            f"too_many_bytes: {size:,} bytes, at most {limit:,}; raise "
            "dicom.limits.max_object_bytes"
        )
