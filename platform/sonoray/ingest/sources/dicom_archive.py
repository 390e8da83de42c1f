"""A DICOM archive as a source: a folder of any depth or a zip.

It lists files or entries and tells them by name and content; `dicom_studies` reads them to studies.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sonoray.images.decode import DEFAULT_LIMITS, ImageLimits
from sonoray.images.sandbox import GuardedPool
from sonoray.ingest.dicom.containers import FileEntry, list_entries
from sonoray.ingest.dicom.dicom_config import DicomConfig
from sonoray.ingest.sources.dicom_studies import StudyReader
from sonoray.ingest.sources.inputs import tell_content
from sonoray.ingest.units import Guard, Unit, read_source
from sonoray.study.raw import RawStudy


class DicomSource:
    """Reads a DICOM folder or zip archive."""

    public = False

    def __init__(
        self,
        path: Path,
        config: DicomConfig | None = None,
        *,
        name: str = "dicom",
        limits: ImageLimits = DEFAULT_LIMITS,
        reports: Path | None = None,
        columns: Sequence[str] = (),
    ) -> None:
        """List what lies there; no object is opened.

        Args:
            path: folder or zip archive.
            config: how objects become images.
            name: of the dataset.
            limits: what is accepted as an image.
            reports: table of reports, see `sonoray.ingest.sources.reports`.
            columns: what its columns are called.

        Raises:
            DataError: the path or the table cannot be read.
        """
        config = config or DicomConfig()
        self.name = name
        self._path = path
        self._entries = list(list_entries(path, config.limits))
        self._reader = StudyReader(config, limits, reports, columns)

    def config(self) -> dict[str, Any]:
        """The configuration and the decoders' versions."""
        return self._reader.config()

    def input_digest(self) -> str:
        """Sha256 (hex) over the names and contents of all files."""
        files = [
            (each.path, each.max_bytes) for each in self._entries if isinstance(each, FileEntry)
        ]
        if self._path.is_file():
            files = [(self._path, sys.maxsize)]
        return self._reader.input_digest(
            os.fsencode(path.relative_to(self._path)) + f"\0{tell_content(path, limit)}\n".encode()
            for path, limit in files
        )

    @property
    def guard(self) -> Guard:
        """What the processes that read objects may take."""
        return self._reader.guard

    def iter_units(self, pool: GuardedPool) -> Iterator[Unit]:
        """Read the headers; yield the studies by Study Instance UID, then what belongs to none."""
        return self._reader.iter_units(pool, self._entries)

    def iter_studies(self) -> Iterator[RawStudy]:
        """Yield every study once, by Study Instance UID, then what belongs to none."""
        return read_source(self)
