"""Several requests at a time: list the instances of all studies, bring their objects to the spool.

Whatever the order of answers, results come in the order of what was asked for, and a few requests
run ahead of them. A request that fails costs its instance, or the study whose instances it asked
for; an error that concerns the server ends all.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from sonoray.cluster.progress import progress
from sonoray.images.decode import RejectedImageError
from sonoray.ingest.dicomweb.client import Answer, DicomWebClient, FetchFailedError
from sonoray.ingest.dicomweb.dicomweb_config import DicomWebConfig
from sonoray.ingest.dicomweb.multipart import copy_object
from sonoray.ingest.dicomweb.search import Instance, find_instances, find_studies
from sonoray.ingest.dicomweb.spool import Spool

T = TypeVar("T")
R = TypeVar("R")

_ACCEPT = 'multipart/related; type="application/dicom"; transfer-syntax=*'
"""As the objects are stored: nothing is decoded and encoded again on the way."""


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


def fetch_objects(
    client: DicomWebClient, instances: Sequence[Instance], spool: Spool, config: DicomWebConfig
) -> dict[Instance, str]:
    """Bring to the spool what it lacks; return `reason: detail` of what could not be fetched.

    Raises:
        DataError: the server does not let us in, or the spool is full.
        JobFailedError: the server is gone.
    """

    def fetch(instance: Instance) -> str:
        try:
            client.get(
                (
                    *("studies", instance.study_uid),
                    *("series", instance.series_uid),
                    *("instances", instance.instance_uid),
                ),
                receive=lambda answer: _receive(answer, instance.instance_uid, spool),
                accept=_ACCEPT,
            )
        except FetchFailedError as error:
            return f"fetch_failed: {error}"
        except RejectedImageError as error:
            return str(error)
        return ""

    missing = [each for each in instances if not spool.has(each.instance_uid)]
    problems = _run_ahead(client, fetch, missing, config.requests_in_flight)
    shown = progress(zip(missing, problems, strict=True), "fetch objects", len(missing))
    return {instance: problem for instance, problem in shown if problem}


def _receive(answer: Answer, uid: str, spool: Spool) -> None:
    def copy(write: Callable[[bytes], None]) -> None:
        copy_object(answer.content_type, answer.chunks, write, is_announced=answer.is_announced)

    spool.add(uid, copy)


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
