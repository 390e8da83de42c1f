"""DICOM objects, wherever they lie, grouped to studies.

Two passes. The first reads every header (`sonoray.ingest.dicom`) and groups objects by Study
Instance UID to units (`sonoray.ingest.units`); about 2 KB an object stay in memory. The
second decodes study by study, in guarded processes, here or wherever the units are read. Within a
study, images are in the order of series number, instance number, then frame.

Everything that lies there is accounted for. An object without usable pixels (a structured report, a
presentation state, an encapsulated PDF) or of another modality is an image that is quarantined in
its study; a file that is no DICOM object, or names no study, belongs to one study that is
quarantined as a whole. Segmentations become masks (`sonoray.ingest.outlines`). A study that lacks a
picture, because its pixels cannot be read, says so in its label `lacks` and in its provenance.

A study is quarantined where its objects name several patients or none. Patients are told apart by
Patient ID alone: where two issuers gave one number to two persons, these share a split, which harms
nothing, while the same person with and without an issuer would not.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sonoray.files.text_files import read_text
from sonoray.images.decode import ImageLimits, RejectedImageError
from sonoray.images.sandbox import GuardedPool
from sonoray.ingest.dicom.dicom_config import DicomConfig
from sonoray.ingest.dicom.kinds import ULTRASOUND, Kind
from sonoray.ingest.dicom.objects import DecodedObject, ObjectInfo, decode_object
from sonoray.ingest.outlines.masks import with_masks
from sonoray.ingest.outlines.segmentation import Place
from sonoray.ingest.sources.dicom_groups import Entry, LostObject, ObjectGroup, group_objects
from sonoray.ingest.sources.inputs import tell_content
from sonoray.ingest.sources.reports import Reports
from sonoray.ingest.units import Guard, Listed, Unit
from sonoray.study.contract import Task, Turn
from sonoray.study.raw import UNWANTED, RawImage, RawStudy

_QUESTIONS = {True: "请写出这次超声检查的报告。", False: "请写出这次检查的报告。"}
"""What asks for the report of a study, of ultrasound and of others."""
_DECODERS = (
    "av",
    "pydicom",
    "pylibjpeg",
    "pylibjpeg-libjpeg",
    "pylibjpeg-openjpeg",
    "pylibjpeg-rle",
)
_PROVENANCE = (
    "DICOM; de-identified by an allow-list of attributes: DCM 113100 Basic Application "
    "Confidentiality Profile, DCM 113108 Retain Patient Characteristics Option (sex, age)"
)
_LACKS = {
    "loop": "lacks_loop: loops of the study could not be read",
    "still": "lacks_still: stills of the study could not be read",
}
NO_STUDY = "files of no study"
"""What the study of all objects is called that name none."""


class StudyReader:
    """Reads objects, wherever they lie, to studies."""

    def __init__(
        self,
        config: DicomConfig,
        limits: ImageLimits,
        reports: Path | None = None,
        columns: Sequence[str] = (),
    ) -> None:
        """Check the table of reports; no object is opened.

        Args:
            config: how objects become images.
            limits: what is accepted as an image.
            reports: table of reports, see `sonoray.ingest.sources.reports`.
            columns: what its columns are called.

        Raises:
            ConfigError: `columns` is malformed.
            DataError: the table cannot be read.
        """
        self._config = config
        self._limits = limits
        self._reports_path = reports
        self._columns = tuple(columns)
        self._read_reports()  # what is wrong with them is said before anything is decoded

    def config(self) -> dict[str, Any]:
        """The configuration, the reports' columns and the decoders' versions, for the stage key."""
        decoders = {name: version(name) for name in _DECODERS}
        config = {"dicom": self._config.model_dump(mode="json"), "decoders": decoders}
        return {**config, "columns": list(self._columns)} if self._columns else config

    def input_digest(self, objects: Iterable[bytes]) -> str:
        """Sha256 (hex) over what tells the objects, and over the reports."""
        digest = hashlib.sha256()
        for each in objects:
            digest.update(each)
        if self._reports_path is not None:
            digest.update(f"reports\0{tell_content(self._reports_path)}".encode())
        return digest.hexdigest()

    def report_lines(self) -> range:
        """Lines that the table of reports has, or a few more."""
        if self._reports_path is None:
            return range(0)
        text = read_text(self._reports_path)
        return range(1, text.count("\n") + text.count("\r") + 2)

    @property
    def guard(self) -> Guard:
        """What the processes that read objects may take."""
        limits = self._config.limits
        return Guard(memory_bytes=limits.worker_memory_bytes, timeout_s=limits.worker_timeout_s)

    def iter_units(
        self, pool: GuardedPool, entries: Sequence[Entry], lost: Iterable[LostObject] = ()
    ) -> Iterator[Unit]:
        """Read the headers, and yield every study once, by UID, then what belongs to none."""
        reports = self._read_reports()
        groups, strays = group_objects(pool, entries, lost, self._config, self._limits)
        if reports is not None:
            for group in groups:
                for patient in group.patients or {group.patient_ref}:
                    reports.note_patient(patient, group.accessions)
        for group in groups:
            yield self._unit(group, reports)
        if strays:
            yield Listed(study=_strays(strays))
        if reports is not None:
            for study in _leftovers(reports):
                yield Listed(study=study)

    def _read_reports(self) -> Reports | None:
        path = self._reports_path
        return None if path is None else Reports(path, self._columns)

    def _unit(self, group: ObjectGroup, reports: Reports | None) -> "ObjectsUnit":
        report, unclear = "", ""
        if reports is not None and group.objects:
            report, unclear = reports.find(study_uid=group.uid, accessions=group.accessions)
        return ObjectsUnit(
            group=group,
            problem=group.find_problem(self._config),
            report=report,
            unclear=unclear,
            config=self._config,
            limits=self._limits,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectsUnit:
    """A study of DICOM objects, as their headers tell (`sonoray.ingest.units`)."""

    group: ObjectGroup
    problem: str
    """Why it is no study of one patient; then no object is decoded."""
    report: str
    unclear: str
    """Why its report cannot be told."""
    config: DicomConfig
    limits: ImageLimits

    @property
    def calls(self) -> list[Callable[[], DecodedObject]]:
        """One for each object whose pixels seem usable."""
        return [
            partial(decode_object, entry, self.config, self.limits)
            for info, entry in self.group.objects
            if self._is_decoded(info)
        ]

    def build(self, decoded: Sequence[Future[DecodedObject]], pool: GuardedPool) -> RawStudy:
        """Make the study of its objects; segmentations of what it shows are read here."""
        group, futures = self.group, iter(decoded)
        images: list[RawImage] = []
        shown: dict[Place, list[tuple[int, DecodedObject]]] = {}
        segmentations: list[Entry] = []
        lacking: Counter[str] = Counter()
        remarks = Counter(group.remarks)
        num_objects = num_cropped = 0
        for info, entry in group.objects:
            future = next(futures) if self._is_decoded(info) else None
            if future is None and not self.problem and not info.problem:
                segmentations.append(entry)
                continue
            try:
                if future is None:
                    raise RejectedImageError(info.problem or f"study_rejected: {self.problem}")
                result = future.result()
            except RejectedImageError as error:
                images.append(RawImage(ref=entry.ref, data=b"", problem=str(error)))
                lacking[_lost(error.reason, info.num_frames)] += 1
                continue
            num_objects += 1
            num_cropped += result.is_cropped
            remarks.update(result.remarks)
            for position, frame in enumerate(result.frames, len(images)):
                copies = shown.setdefault((info.instance_uid, frame.index), [])
                copies.append((position, result))
            images.extend(_images(entry.ref, info, result))
        images.extend(group.lost)
        for image in group.lost:
            lacking[_lost(image.problem.partition(":")[0])] += 1
        lacking.pop("", None)
        labels = group.labels()
        question = _QUESTIONS[labels.get("modality", ULTRASOUND) == ULTRASOUND]
        masked = with_masks(pool, images, shown, segmentations, self.config, self.limits)
        dates = (info.study_date for info, _ in group.objects)
        return RawStudy(
            ref=group.uid,
            patient_ref=group.patient_ref,
            images=tuple(masked.images),
            turns=(
                (Turn(question=question, answer=self.report, task=Task.REPORT, topic="report"),)
                if self.report
                else ()
            ),
            labels=labels | _lacks(lacking),
            provenance=f"{_PROVENANCE}; cut to the scan area in {num_cropped} of {num_objects} "
            "objects",
            identifiers=group.identifiers,
            study_date=min(filter(None, dates), default=""),
            problem=self.problem or self.unclear,
            remarks=remarks
            + Counter(masked.remarks)
            + Counter({_LACKS[kind]: count for kind, count in lacking.items()}),
        )

    def _is_decoded(self, info: ObjectInfo) -> bool:
        return not (self.problem or info.problem or info.kind is Kind.SEGMENTATION)


def _lost(reason: str, num_frames: int = 1) -> str:
    """What a study lacks by an object that was refused: a loop, a still, or nothing (empty)."""
    if reason in UNWANTED:
        return ""
    return "loop" if num_frames > 1 else "still"


def _lacks(counts: Counter[str]) -> dict[str, str]:
    """The label of a study that lacks pictures."""
    listed = ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items()))
    return {"lacks": listed} if listed else {}


def frame_ref(ref: str, index: int) -> str:
    """What a frame of an object is called, counted from 0."""
    return f"{ref}#{index}"


def report_ref(line: int) -> str:
    """What a row of the table of reports is called."""
    return f"reports:{line}"


def _images(ref: str, info: ObjectInfo, decoded: DecodedObject) -> Iterator[RawImage]:
    for number, frame in enumerate(decoded.frames):
        yield RawImage(
            # the first is called as the object is, by which a reject is found when it is accepted
            ref=frame_ref(ref, frame.index) if number else ref,
            data=frame.pixels,
            frame_index=frame.index,
            labels={**info.image_labels, **frame.labels},
            is_cut=decoded.is_cropped,
        )


def _strays(images: Sequence[RawImage]) -> RawStudy:
    reasons = Counter(image.problem.partition(":")[0] for image in images)
    listed = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
    return RawStudy(
        ref=NO_STUDY,
        patient_ref=NO_STUDY,
        images=tuple(images),
        turns=(),
        problem=f"no_study: {len(images)} files belong to no study ({listed})",
    )


def _leftovers(reports: Reports) -> Iterator[RawStudy]:
    problems = reports.refused | reports.find_unused()
    for line, problem in sorted(problems.items()):
        ref = report_ref(line)
        yield RawStudy(ref=ref, patient_ref=ref, images=(), turns=(), problem=problem, is_row=True)
