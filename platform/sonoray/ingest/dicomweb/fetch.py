"""Several requests at a time: list the instances of all studies, bring their objects here.

They go to a spool on disk, or are held in memory (`Place`).

Whatever the order of answers, results come in the order of what was asked for, and a few requests
run ahead of them. A request that fails costs its instance, or the study whose instances it asked
for; an error that concerns the server ends all.

Objects are asked for as they are stored. One that cannot be read so, or that the server does not
give so, is asked for a second time as Explicit VR Little Endian, which every server can make
(PS3.18 section 8.7.3.5.2); where that fails too, the first answer stands.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

from pydicom.uid import ExplicitVRLittleEndian

from sonoray.cluster.progress import progress
from sonoray.images.decode import RejectedImageError
from sonoray.ingest.dicom.header import SYNTAXES, find_syntax
from sonoray.ingest.dicomweb.client import Answer, DicomWebClient, FetchFailedError
from sonoray.ingest.dicomweb.dicomweb_config import DicomWebConfig
from sonoray.ingest.dicomweb.multipart import copy_object
from sonoray.ingest.dicomweb.search import Instance, find_instances, find_studies

T = TypeVar("T")
R = TypeVar("R")

_ACCEPT = 'multipart/related; type="application/dicom"; transfer-syntax={}'
_AS_STORED = "*"
_NOT_ACCEPTABLE = "fetch_failed: HTTP 406"
_HEAD_BYTES = 65_536
"""Enough of a file to find its transfer syntax in."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """What a query means on a server."""

    instances: Sequence[Instance]
    """Each SOP Instance UID once, sorted."""
    failed_studies: Sequence[tuple[str, str]]
    """Studies whose instances the server does not tell, each with the problem, sorted."""


def list_instances(
    client: DicomWebClient, query: Sequence[tuple[str, str]], config: DicomWebConfig
) -> Listing:
    """Find all instances of the studies that match.

    Raises:
        DataError: the server cannot be searched.
        JobFailedError: it is gone.
    """

    def list_study(uid: str) -> tuple[str, list[Instance] | str]:
        try:
            return uid, find_instances(client, uid, config)
        except FetchFailedError as error:
            return uid, f"fetch_failed: {error}"

    studies = find_studies(client, query, config)
    answers = _run_ahead(client, list_study, studies, config.requests_in_flight)
    instances: dict[str, Instance] = {}
    failed = []
    for study_uid, found in progress(answers, "list studies", len(studies)):
        if isinstance(found, str):
            failed.append((study_uid, found))
        else:
            for instance in found:  # studies come sorted: of two that list it the first has it
                instances.setdefault(instance.instance_uid, instance)
    return Listing(instances=sorted(instances.values()), failed_studies=failed)


class Place(Protocol):
    """Where objects go; all methods may be called from several threads."""

    def has(self, uid: str) -> bool:
        """Whether an object is there, whole."""
        ...

    def head(self, uid: str, size_bytes: int) -> bytes:
        """The beginning of an object that is there."""
        ...

    def add(self, uid: str, copy: Callable[[Callable[[bytes], None]], None]) -> None:
        """Take an object whole, or nothing.

        Raises:
            RejectedImageError: the object is too large.
            DataError: there is no room.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """What came of the objects that were asked for."""

    problems: Mapping[Instance, str]
    """By object that could not be fetched: `reason: detail`."""
    num_converted: int
    """Objects that the server gave in another transfer syntax than they are stored in."""


def fetch_objects(
    client: DicomWebClient,
    instances: Sequence[Instance],
    place: Place,
    config: DicomWebConfig,
    *,
    shows_progress: bool = True,
) -> Fetched:
    """Bring to a place what it lacks.

    Raises:
        DataError: the server does not let us in, or the place is full.
        JobFailedError: the server is gone.
    """

    def ask(instance: Instance, syntax: str) -> str:
        try:
            client.get(
                (
                    *("studies", instance.study_uid),
                    *("series", instance.series_uid),
                    *("instances", instance.instance_uid),
                ),
                receive=lambda answer: _receive(answer, instance.instance_uid, place),
                accept=_ACCEPT.format(syntax),
            )
        except FetchFailedError as error:
            return f"fetch_failed: {error}"
        except RejectedImageError as error:
            return str(error)
        return ""

    def fetch(instance: Instance) -> tuple[str, bool]:
        problem = ask(instance, _AS_STORED)
        if problem not in ("", _NOT_ACCEPTABLE):
            return problem, False
        if not problem and _may_be_read(place.head(instance.instance_uid, _HEAD_BYTES)):
            return problem, False
        converted = ask(instance, ExplicitVRLittleEndian)
        return (problem, False) if converted else ("", True)

    missing = [each for each in instances if not place.has(each.instance_uid)]
    answers = _run_ahead(client, fetch, missing, config.requests_in_flight)
    shown: Iterable[tuple[Instance, tuple[str, bool]]] = zip(missing, answers, strict=True)
    if shows_progress:
        shown = progress(shown, "fetch objects", len(missing))
    problems: dict[Instance, str] = {}
    num_converted = 0
    for instance, (problem, is_converted) in shown:
        num_converted += is_converted
        if problem:
            problems[instance] = problem
    return Fetched(problems=problems, num_converted=num_converted)


def _may_be_read(head: bytes) -> bool:
    """Whether an object is in a transfer syntax that is read, or is none at all."""
    syntax = find_syntax(head)
    return not syntax or syntax in SYNTAXES


def _receive(answer: Answer, uid: str, place: Place) -> None:
    def copy(write: Callable[[bytes], None]) -> None:
        copy_object(answer.content_type, answer.chunks, write, is_announced=answer.is_announced)

    place.add(uid, copy)


def _run_ahead(
    client: DicomWebClient, function: Callable[[T], R], items: Iterable[T], workers: int
) -> Iterator[R]:
    """Yield the results in order; an error, or nobody who reads on, ends what still runs."""
    ahead: deque[Future[R]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="dicomweb") as pool:
        try:
            for item in items:
                ahead.append(pool.submit(function, item))
                if len(ahead) > 8 * workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            if ahead:
                client.stop()
                pool.shutdown(cancel_futures=True)
