"""A DICOMweb server as a source: QIDO-RS says what there is, WADO-RS brings it, `dicom` reads it.

The list of instances stands for the input: an instance does not change under its SOP Instance UID.
What could not be fetched is part of the digest too, so that another try is another dataset. Objects
wait in a spool (`sonoray.ingest.dicomweb.spool`), which goes when all of them were fetched and
read; if some failed it stays, and the next ingest fetches those alone.

A study is no unit of what is wanted: objects whose class and modality the server tells, and that
would be refused by them (`sonoray.ingest.dicom.kinds`), are not fetched. They are images of their
study, quarantined with the reason that they would have.

An object is called by its SOP Instance UID. One that could not be fetched is an image of its study,
quarantined with `fetch_failed` or `too_many_bytes`; a study whose instances the server does not
tell is quarantined as a whole.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydicom.uid import UID

from sonoray.images.decode import DEFAULT_LIMITS, ImageLimits
from sonoray.images.sandbox import GuardedPool
from sonoray.ingest.dicom.containers import FileEntry
from sonoray.ingest.dicom.dicom_config import DicomConfig
from sonoray.ingest.dicom.kinds import Kind, describe_other, find_kind
from sonoray.ingest.dicomweb.client import DicomWebClient
from sonoray.ingest.dicomweb.dicomweb_config import DicomWebConfig
from sonoray.ingest.dicomweb.fetch import Fetched, Listing, fetch_objects, list_instances
from sonoray.ingest.dicomweb.search import Instance
from sonoray.ingest.dicomweb.server_url import Address
from sonoray.ingest.dicomweb.spool import Spool, open_spool
from sonoray.ingest.sources.base import FetchCounts, ListedStudy
from sonoray.ingest.sources.dicom_groups import LostObject
from sonoray.ingest.sources.dicom_studies import NO_STUDY, StudyReader, frame_ref, report_ref
from sonoray.ingest.sources.inputs import unusable
from sonoray.ingest.units import Guard, Listed, Unit, read_source
from sonoray.privacy.keys import IdentityKey
from sonoray.study.raw import RawStudy


@dataclass(frozen=True, kw_only=True, slots=True)
class _Fetched:
    """What lies in the spool, and what does not."""

    spool: Spool
    problems: Mapping[Instance, str]
    """By instance that could not be fetched: why."""
    num_converted: int = 0


class DicomWebSource:
    """Reads what a query means on a DICOMweb server."""

    public = False

    def __init__(
        self,
        address: Address,
        query: Sequence[tuple[str, str]],
        config: DicomWebConfig | None = None,
        dicom: DicomConfig | None = None,
        *,
        name: str = "dicomweb",
        limits: ImageLimits = DEFAULT_LIMITS,
        reports: Path | None = None,
        columns: Sequence[str] = (),
    ) -> None:
        """Ask nothing yet.

        Args:
            address: of the server.
            query: attributes of the studies, as `read_query` returns them.
            config: how the server is asked.
            dicom: how objects become images.
            name: of the dataset.
            limits: what is accepted as an image.
            reports: table of reports, see `sonoray.ingest.sources.reports`.
            columns: what its columns are called.

        Raises:
            DataError: the table cannot be read.
        """
        self.name = name
        self._query = query
        self._config = config or DicomWebConfig()
        self._dicom = dicom or DicomConfig()
        self._client = DicomWebClient(address, self._config)
        self._reader = StudyReader(self._dicom, limits, reports, columns)
        self._fetched: _Fetched | None = None
        self._num_fetched = 0

    def config(self) -> dict[str, Any]:
        """What shapes the images; how the server was asked does not."""
        return self._reader.config()

    def input_digest(self) -> str:
        """Sha256 (hex) over the list of instances and what could not be fetched.

        Raises:
            DataError: the server cannot be searched.
            JobFailedError: it is gone.
        """
        return self._reader.input_digest(self._tell_objects())

    @contextlib.contextmanager
    def fetched(self, folder: Path, key: IdentityKey, *, is_needed: bool) -> Iterator[None]:
        """Hold the objects in `folder` while they are read; see `RemoteSource`."""
        with open_spool(
            folder,
            key.source_ref,
            max_object_bytes=self._dicom.limits.max_object_bytes,
            max_bytes=self._config.max_spool_bytes,
        ) as spool:
            came = Fetched(problems={}, num_converted=0)
            if is_needed:
                wanted = [each for each in self._listing.instances if each not in self._left]
                before = sum(spool.has(each.instance_uid) for each in wanted)
                came = fetch_objects(self._client, wanted, spool, self._config)
                self._num_fetched = len(wanted) - len(came.problems) - before
            self._fetched = _Fetched(
                spool=spool, problems=came.problems, num_converted=came.num_converted
            )
            yield
            if not came.problems and not self._listing.failed_studies:
                spool.remove()

    def fetch_counts(self) -> FetchCounts:
        """What it took so far."""
        counts = self._client.counts
        problems = {} if self._fetched is None else self._fetched.problems
        converted = 0 if self._fetched is None else self._fetched.num_converted
        spool = None if self._fetched is None else self._fetched.spool.folder
        return FetchCounts(
            listed=len(self._listing.instances),
            fetched=self._num_fetched,
            failed=len(problems) + len(self._listing.failed_studies),
            requests=counts.requests,
            retried=counts.retried,
            size_bytes=counts.size_bytes,
            kept_in="" if spool is None or not spool.exists() else str(spool),
            left=len(self._left),
            converted=converted,
        )

    @property
    def guard(self) -> Guard:
        """What the processes that read objects may take."""
        return self._reader.guard

    def iter_studies(self) -> Iterator[RawStudy]:
        """Yield every study once, then what belongs to none; only while `fetched` holds."""
        return read_source(self)

    def iter_units(self, pool: GuardedPool) -> Iterator[Unit]:
        """Read the headers of the objects in the spool; only while `fetched` holds."""
        assert self._fetched is not None, "iter_units outside of fetched"
        spool, problems = self._fetched.spool, {**self._fetched.problems, **self._left}
        entries = [
            FileEntry(
                path=spool.path(each.instance_uid),
                ref=each.instance_uid,
                max_bytes=self._dicom.limits.max_object_bytes,
            )
            for each in self._listing.instances
            if each not in problems
        ]
        lost = [
            LostObject(ref=each.instance_uid, study_uid=each.study_uid, problem=problem)
            for each, problem in problems.items()
        ]
        yield from self._reader.iter_units(pool, entries, lost)
        for uid, problem in self._listing.failed_studies:
            yield Listed(study=unusable(uid, problem))

    def iter_listed(self) -> Iterator[ListedStudy]:
        """Yield what the server lists, without an object; see `RemoteSource`."""
        studies: dict[str, list[Instance]] = {uid: [] for uid, _ in self._listing.failed_studies}
        for each in self._listing.instances:
            studies.setdefault(each.study_uid, []).append(each)
        for uid, instances in sorted(studies.items()):
            yield ListedStudy(ref=uid, where=f"study {uid}", images=self._places(instances))
        everything = self._places(self._listing.instances, max_frames=1)
        yield ListedStudy(ref=NO_STUDY, where=NO_STUDY, images=everything)
        for line in self._reader.report_lines():
            where = f"line {line} of the table of reports"
            yield ListedStudy(ref=report_ref(line), where=where, images=iter(()), is_row=True)

    def _places(
        self, instances: Sequence[Instance], max_frames: int | None = None
    ) -> Iterator[tuple[str, str]]:
        """Objects, then the frames that each may have, those of small numbers first."""
        for index in range(max_frames or self._dicom.limits.max_frames):
            for each in instances:
                where = f"study {each.study_uid} series {each.series_uid} instance "
                where += each.instance_uid
                if index:
                    yield frame_ref(each.instance_uid, index), f"{where} frame {index + 1}"
                else:
                    yield each.instance_uid, where

    def _tell_objects(self) -> Iterator[bytes]:
        problems = {} if self._fetched is None else self._fetched.problems
        problems = {**problems, **self._left}
        for each in self._listing.instances:
            told = (each.study_uid, each.series_uid, each.instance_uid, problems.get(each, ""))
            yield ("\0".join(told) + "\n").encode()
        for failed in self._listing.failed_studies:
            yield ("\0".join(failed) + "\n").encode()

    @cached_property
    def _left(self) -> dict[Instance, str]:
        """By instance that need not be fetched: why, as its header would say."""
        modalities = self._dicom.modalities
        return {
            each: describe_other(UID(each.sop_class), each.modality)
            for each in self._listing.instances
            if each.sop_class
            and each.modality
            and find_kind(UID(each.sop_class), each.modality, modalities) is Kind.OTHER
        }

    @cached_property
    def _listing(self) -> Listing:
        return list_instances(self._client, self._query, self._config)
