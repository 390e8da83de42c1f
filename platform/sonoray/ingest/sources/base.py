"""The interface of a data source: it yields raw studies, and ingest does everything else.

A source knows its own file layout and nothing of splits, keys, hashes or quarantine. Where one
image or one study is unreadable it still yields it, with the bytes as they are, so that ingest
counts and quarantines it; a source raises only where nothing of it can be read at all.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from sonoray.privacy.keys import IdentityKey
from sonoray.study.raw import RawStudy


class Source(Protocol):
    """A reader of one kind of data set."""

    @property
    def name(self) -> str:
        """Short name of the data set, as in `sonoray ingest NAME`."""
        ...

    @property
    def public(self) -> bool:
        """True where references are no secret and may be stored as they are."""
        ...

    def iter_studies(self) -> Iterator[RawStudy]:
        """Yield every study once, in an order that does not change between runs."""
        ...

    def config(self) -> dict[str, Any]:
        """Return the JSON values that shape what is yielded, for the stage key."""
        ...

    def input_digest(self) -> str:
        """Return a digest of everything that is read, for the stage key."""
        ...


@runtime_checkable
class PublishedSource(Source, Protocol):
    """A reader of one published set, whatever the dataset is called that is made of it."""

    @property
    def set_name(self) -> str:
        """The set's own name, to which its identifiers belong."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchCounts:
    """What a source that reads from a server did there."""

    listed: int
    """Objects that there are."""
    fetched: int
    """Objects that were brought here now; others were here already, or failed."""
    failed: int
    """Objects that could not be fetched, and studies that could not be listed."""
    requests: int
    """All requests, the repeated ones too."""
    retried: int
    """Requests that were made again."""
    size_bytes: int
    """Of the answers."""
    kept_in: str
    """Folder of the objects that wait for another try; empty where nothing waits."""
    left: int = 0
    """Objects of other modalities, as the list says, which were not asked for."""
    converted: int = 0
    """Objects that were asked for a second time, as Explicit VR Little Endian."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedStudy:
    """A study as a server lists it, of which nothing was fetched."""

    ref: str = field(repr=False)
    """As `RawStudy.ref` would be."""
    where: str = field(repr=False)
    """Where it is on the server, in words for whoever may know it."""
    images: Iterator[tuple[str, str]] = field(repr=False)
    """What `RawImage.ref` may be of its images, each with where that is; the likeliest first."""
    is_row: bool = False
    """As `RawStudy.is_row` would be."""


@runtime_checkable
class RemoteSource(Source, Protocol):
    """A source whose files are brought here before they are read, and removed after that.

    Its `input_digest` asks the server; it changes with `fetched` if something could not be fetched.
    """

    def fetched(
        self, folder: Path, key: IdentityKey, *, is_needed: bool
    ) -> AbstractContextManager[None]:
        """Fetch what `folder` lacks, and hold it while `iter_studies` is read.

        After a good end the folder is removed, unless something could not be fetched. It stays
        where an error ends it: the next time it is fetched from where this one ended.

        Args:
            folder: for this dataset alone; it holds patients' data.
            key: for the names of the files.
            is_needed: whether the objects will be read; if not, the folder is only removed.

        Raises:
            DataError: the server does not let us in, or the folder cannot be used.
            JobFailedError: the server is gone.
        """
        ...

    def fetch_counts(self) -> FetchCounts:
        """What it took so far."""
        ...

    def iter_listed(self) -> Iterator[ListedStudy]:
        """Ask the server what there is, and yield what `iter_studies` would, unread.

        Raises:
            DataError: the server cannot be searched.
            JobFailedError: it is gone.
        """
        ...
