"""What a request's study is made of: images that it sends, or a study that it names by its UID.

Whoever needs pictures opens the material, which for a stored study fetches it, and then decodes
within, in a thread. So the objects of a study are here no longer than its decoding takes.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from sonoray_serve.intake.stored_pictures import read_study
from sonoray_serve.intake.study_server import ListedStudy, StudyServer
from sonoray_serve.pictures.study_pictures import StudyImages, StudyPictures

Decode = Callable[[int], StudyImages]
"""Gives the pictures, of which there may be so many; blocks."""


class Material(Protocol):
    """What pictures come from."""

    def open(self) -> AbstractAsyncContextManager[Decode]:
        """Have what is to be decoded at hand.

        Raises:
            ApiError: it cannot be had.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class SentImages:
    """Encoded images and DICOM objects of a request."""

    images: Sequence[bytes] = field(repr=False)
    pictures: StudyPictures

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Decode]:
        """See `Material`."""

        def decode(max_images: int) -> StudyImages:
            return StudyImages(pictures=self.pictures.decode(self.images, max_images))

        yield decode


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredStudy:
    """A study of the DICOMweb server."""

    listed: ListedStudy
    server: StudyServer
    pictures: StudyPictures

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Decode]:
        """See `Material`."""
        async with self.server.fetched(self.listed) as study:
            place = self.listed.asked.place
            yield partial(read_study, study, source=self.pictures, place=place)
