"""The objects of each DICOM study, as their headers tell: the first of two passes.

About 2 KB an object stay in memory. What is no DICOM object, or names no study, is told apart.
"""

import os
from collections import Counter, deque
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

from sonoray.files.spreadsheet import describe_damage, find_damage
from sonoray.images.decode import ImageLimits, RejectedImageError
from sonoray.images.sandbox import GuardedPool
from sonoray.ingest.dicom.containers import ArchiveEntry, FileEntry
from sonoray.ingest.dicom.dicom_config import DicomConfig
from sonoray.ingest.dicom.kinds import Kind
from sonoray.ingest.dicom.objects import ObjectInfo, describe_object
from sonoray.study.identifiers import Identifiers
from sonoray.study.raw import RawImage

Entry = FileEntry | ArchiveEntry


@dataclass(frozen=True, kw_only=True, slots=True)
class LostObject:
    """An object that belongs to a study and could not be had."""

    ref: str
    study_uid: str
    problem: str
    """`reason: detail`."""


@dataclass(slots=True)
class ObjectGroup:
    """Objects of one study, as the headers tell."""

    uid: str
    objects: list[tuple[ObjectInfo, Entry]] = field(default_factory=list)
    lost: list[RawImage] = field(default_factory=list)
    """Objects that never came, each with its problem."""
    identifiers: Identifiers = field(default_factory=Identifiers)
    """What all its objects name."""
    remarks: Counter[str] = field(default_factory=Counter)
    """How many of its objects each remark concerns."""

    @property
    def patients(self) -> set[str]:
        """Patient IDs of its objects, as far as they have one."""
        return {info.patient_id for info, _ in self.objects} - {""}

    @property
    def patient_ref(self) -> str:
        """The Patient ID, or what stands for it: a UID is none, whatever somebody chose for one."""
        return min(self.patients, default=f"study\0{self.uid}")

    @property
    def accessions(self) -> set[str]:
        """Accession numbers of its objects."""
        return {info.accession for info, _ in self.objects} - {""}

    def labels(self) -> dict[str, str]:
        """Labels on which all pictures that have them agree, in a fixed order.

        Of several modalities all are named, as `DX+US`.
        """
        values: dict[str, set[str]] = {}
        for info, _ in self.objects:
            if info.kind is Kind.PICTURE and not info.problem:
                for name, value in info.labels.items():
                    values.setdefault(name, set()).add(value)
        if "modality" in values:
            values["modality"] = {"+".join(sorted(values["modality"]))}
        return {name: min(found) for name, found in sorted(values.items()) if len(found) == 1}

    def find_problem(self, config: DicomConfig) -> str:
        """Why it is no study of one patient, as `reason: detail`; empty where it is."""
        if len(self.patients) > 1:
            return (
                f"mixed_patients: {len(self.patients)} Patient IDs under one Study Instance UID; "
                "export the study again"
            )
        for reason in find_damage(self.patients).values():
            return describe_damage(reason, "Patient ID")
        if self.objects and not self.patients and config.missing_patient == "quarantine":
            return (
                "missing_patient: no object of the study has a Patient ID; add one, or set "
                "dicom.missing_patient=per_study to take it for a patient of its own"
            )
        return ""


def group_objects(
    pool: GuardedPool,
    entries: Iterable[Entry],
    lost: Iterable[LostObject],
    config: DicomConfig,
    limits: ImageLimits,
) -> tuple[list[ObjectGroup], list[RawImage]]:
    """Read all headers; return the studies by UID, and the files that belong to none.

    Args:
        pool: where the headers are read.
        entries: the objects.
        lost: objects that could not be had.
        config: how objects become images.
        limits: what is accepted as an image.
    """
    groups: dict[str, ObjectGroup] = {}
    strays: list[RawImage] = []
    ahead: deque[tuple[Entry, Future[ObjectInfo]]] = deque()

    def take() -> None:
        entry, future = ahead.popleft()
        try:
            info = future.result()
            if not info.study_uid:
                raise RejectedImageError("missing_attribute: StudyInstanceUID")
        except RejectedImageError as error:
            strays.append(RawImage(ref=entry.ref, data=b"", problem=str(error)))
        else:
            group = groups.setdefault(info.study_uid, ObjectGroup(info.study_uid))
            group.identifiers = group.identifiers.joined(info.identifiers)
            group.remarks.update(info.remarks)
            # once a study and not in each of its objects, all of which stay in memory
            group.objects.append((replace(info, identifiers=Identifiers(), remarks=()), entry))

    for entry in entries:
        described = pool.submit(describe_object, entry, config, limits)
        ahead.append((entry, described))
        if len(ahead) > 8 * (os.cpu_count() or 1):
            take()
    while ahead:
        take()
    for group in groups.values():
        group.objects.sort(key=lambda each: (each[0].order, each[1].ref))
    for each in lost:
        group = groups.setdefault(each.study_uid, ObjectGroup(each.study_uid))
        group.lost.append(RawImage(ref=each.ref, data=b"", problem=each.problem))
    return [groups[uid] for uid in sorted(groups)], strays
