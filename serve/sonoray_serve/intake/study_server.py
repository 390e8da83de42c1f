"""Studies of the configured DICOMweb server, which requests name by their UID.

A client says a UID and nothing of where it is looked for: there is one server, that of
`serve.dicomweb`, with the service's own credentials, and a key needs the scope `studies` for it.
The server is asked with what `sonoray ingest dicomweb` asks it with (`sonoray.ingest.dicomweb`).
What it lists of a study is fetched as far as it may be a picture of a modality that is read, under
caps on the number of objects, on each one's bytes and on all bytes together. Objects are held in
memory until they are decoded; nothing of them is written anywhere.

Requests run in threads of their own, so that a slow archive holds up none but those who ask for it.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from sonoray.errors import DataError, JobFailedError
from sonoray.ingest.dicomweb.dicomweb_config import DicomWebConfig
from sonoray.ingest.dicomweb.server_url import read_address
from sonoray_serve.problems import ApiError, Problem
from sonoray_serve.settings import DicomReading, Limits

if TYPE_CHECKING:
    from sonoray.ingest.dicomweb.client import DicomWebClient
    from sonoray.ingest.dicomweb.search import Instance

logger = logging.getLogger(__name__)

R = TypeVar("R")

PLACE = "sonoray.study"
"""The parameter that names a study, in a conversation."""

_THREADS = 8
"""Requests about studies that wait for the server at once; others wait for these."""

_SHOWN_TO_NOBODY = ("HTTP 403", "HTTP 404", "HTTP 410")
"""What servers say of a study that is not there, or not for this service."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AskedUids:
    """What a request says of a study."""

    study: str = field(repr=False)
    instances: tuple[str, ...] = field(default=(), repr=False)
    """Those that are meant; empty for all."""
    place: str = PLACE
    """The parameter that names it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedStudy:
    """What the server has of a study, before any of it is fetched."""

    asked: AskedUids
    wanted: Sequence["Instance"] = field(repr=False)
    """Instances that may be pictures."""
    left_out: Mapping[str, int]
    """Others, by the reason that ingest would give."""

    @property
    def uids(self) -> list[str]:
        """What the study consists of, as far as it is looked at."""
        return [self.asked.study, *(each.instance_uid for each in self.wanted)]


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchedStudy:
    """The objects of a study."""

    uid: str = field(repr=False)
    objects: Mapping[str, bytes] = field(repr=False)
    """By SOP Instance UID."""
    left_out: Mapping[str, int]
    """Objects that are not among them, by reason."""


class StudyServer:
    """Finds and fetches studies; for one event loop."""

    def __init__(self, url: str, *, limits: Limits, reading: DicomReading | None = None) -> None:
        """Ask nothing yet.

        Args:
            url: of the DICOMweb server; empty where there is none.
            limits: the service's.
            reading: which objects are pictures.

        Raises:
            ConfigError: the address is none, or its credentials are not to be used.
        """
        self._address = read_address(url) if url else None
        self._limits = limits
        self._modalities = (reading or DicomReading()).dicom.modalities
        self._config = DicomWebConfig(
            connect_timeout_s=min(5.0, limits.deadline_s),
            read_timeout_s=min(20.0, limits.deadline_s),
            answer_timeout_s=limits.deadline_s,
            tries=2,  # a person waits
            backoff_s=0.2,
            max_backoff_s=1.0,
            max_search_bytes=20_000_000,
        )
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="study-server")
        self._fetches = asyncio.Semaphore(limits.studies_in_memory)

    @property
    def is_there(self) -> bool:
        """Whether a server is configured."""
        return self._address is not None

    async def find(self, asked: AskedUids, max_images: int) -> ListedStudy:
        """Ask what there is of a study.

        Args:
            asked: the study.
            max_images: most pictures that are taken; each object gives one at least.

        Raises:
            ApiError: there is no such study, none of it may be a picture, it has too many, or the
                server fails.
        """
        found = await self._ask(lambda client: self._list(client, asked.study), asked.place)
        if not found:
            raise ApiError(Problem.STUDY_NOT_FOUND, asked.place)
        if asked.instances:
            named = set(asked.instances)
            found = [each for each in found if each.instance_uid in named]
            if len(found) < len(named):
                place = asked.place.replace("study", "instances")
                raise ApiError(Problem.STUDY_NOT_FOUND, place)
        listed = self._sort(asked, found)
        if not listed.wanted:
            raise ApiError(
                Problem.STUDY_NOT_USABLE, asked.place, detail=tell_reasons(listed.left_out)
            )
        if len(listed.wanted) > max_images:
            raise ApiError(Problem.STUDY_HAS_TOO_MANY_PICTURES, asked.place, max_images)
        return listed

    @asynccontextmanager
    async def fetched(self, listed: ListedStudy) -> AsyncIterator[FetchedStudy]:
        """Hold the objects of a study while they are decoded.

        Raises:
            ApiError: there are too many bytes, or the server fails.
        """
        async with self._fetches:  # bounds the memory that objects take
            yield await self._ask(lambda client: self._fetch(client, listed), listed.asked.place)

    async def headers(self, asked: AskedUids, keywords: Sequence[str]) -> dict[str, dict[str, str]]:
        """What some instances say of themselves, by SOP Instance UID.

        Args:
            asked: the study, and the instances.
            keywords: of the attributes that are wanted.

        Raises:
            ApiError: the server fails.
        """
        return await self._ask(lambda client: self._describe(client, asked, keywords), asked.place)

    async def _ask(self, function: "Callable[[DicomWebClient], R]", place: str) -> R:
        """Run a function with a client of its own, which ends with the request."""
        from sonoray.ingest.dicomweb.client import DicomWebClient, FetchFailedError

        if self._address is None:
            raise ApiError(Problem.NO_STUDY_SERVER, place)
        client = DicomWebClient(self._address, self._config)
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, function, client)
        except asyncio.CancelledError:
            client.stop()  # the thread is free again after the request that it waits for
            raise
        except FetchFailedError as error:
            if str(error) in _SHOWN_TO_NOBODY:
                raise ApiError(Problem.STUDY_NOT_FOUND, place) from None
            passing = error.is_passing
            problem = Problem.STUDY_SERVER_AWAY if passing else Problem.STUDY_NOT_FETCHED
            said = str(error)
        except JobFailedError as error:
            problem, said = Problem.STUDY_SERVER_AWAY, str(error)
        except DataError as error:
            refused = client.has_answered
            problem = Problem.STUDY_NOT_FETCHED if refused else Problem.STUDY_SERVER_AWAY
            said = str(error)
        # in words of the client's own, which name no UID (`sonoray.ingest.dicomweb`)
        logger.error("a study could not be had of the DICOMweb server: %s", said)
        raise ApiError(problem, place)

    def _list(self, client: "DicomWebClient", study_uid: str) -> "list[Instance]":
        from sonoray.ingest.dicomweb.search import find_instances

        return find_instances(client, study_uid, self._config)

    def _sort(self, asked: AskedUids, found: "Sequence[Instance]") -> ListedStudy:
        """Which instances may be pictures; one whose class the server does not tell may be."""
        from pydicom.uid import UID

        from sonoray.ingest.dicom.kinds import Kind, describe_other, find_kind

        wanted: list[Instance] = []
        left_out: Counter[str] = Counter()
        for each in found:
            sop_class, is_told = UID(each.sop_class), bool(each.sop_class and each.modality)
            kind = find_kind(sop_class, each.modality, self._modalities)
            if not is_told or kind is Kind.PICTURE:
                wanted.append(each)
            elif kind is Kind.SEGMENTATION:
                left_out["not_an_image"] += 1
            else:
                left_out[reason_of(describe_other(sop_class, each.modality))] += 1
        return ListedStudy(asked=asked, wanted=wanted, left_out=left_out)

    def _fetch(self, client: "DicomWebClient", listed: ListedStudy) -> FetchedStudy:
        from sonoray.ingest.dicomweb.fetch import fetch_objects
        from sonoray.ingest.dicomweb.held import HeldObjects

        max_bytes = self._limits.max_fetched_bytes
        held = HeldObjects(max_object_bytes=self._limits.max_object_bytes, max_bytes=max_bytes)
        try:
            came = fetch_objects(client, listed.wanted, held, self._config, shows_progress=False)
        except DataError:
            if held.is_full:
                raise ApiError(Problem.STUDY_TOO_LARGE, listed.asked.place, max_bytes) from None
            raise
        left_out = Counter(listed.left_out)
        left_out.update(map(reason_of, came.problems.values()))
        return FetchedStudy(
            uid=listed.asked.study,
            objects={
                each.instance_uid: held.get(each.instance_uid)
                for each in listed.wanted
                if each not in came.problems
            },
            left_out=left_out,
        )

    def _describe(
        self, client: "DicomWebClient", asked: AskedUids, keywords: Sequence[str]
    ) -> dict[str, dict[str, str]]:
        from sonoray.ingest.dicomweb.search import read_attributes

        return {
            each.instance_uid: read_attributes(client, each, keywords, self._config)
            for each in self._list(client, asked.study)
            if each.instance_uid in asked.instances
        }


def reason_of(problem: str) -> str:
    """The reason of `reason: detail`: one of our own words, never an object's."""
    return problem.partition(":")[0]


def tell_reasons(left_out: Mapping[str, int]) -> str:
    """How many objects were left out, by reason."""
    return ", ".join(f"{reason} {count}" for reason, count in sorted(left_out.items()))
