"""What a report says, before it takes a form: the text, what it rests on, and who says so."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sonoray_serve.pictures.dicom_pictures import is_dicom
from sonoray_serve.problems import ApiError, Problem

IDENTITY = (
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"),
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
    *("IssuerOfPatientID", "Modality", "NumberOfFrames"),
)
"""Attributes of an object that a report on it repeats; all others stay where they are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """An object that the model was shown."""

    header: Mapping[str, str] = field(repr=False)
    """The attributes of `IDENTITY`; empty where it has none."""
    chosen_frames: Sequence[int]
    """Frames that the answer rests on, from 0; empty where it rests on others."""

    @property
    def is_loop(self) -> bool:
        """Whether it has several frames."""
        return int(self.header["NumberOfFrames"] or 1) > 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """One answer that becomes a report."""

    answer_id: str
    text: str = field(repr=False)
    asked_first: Sequence[tuple[str, str]] = field(repr=False)
    """Closed questions that the text follows, with the model's answers."""
    language: str
    """`zh` or `en`."""
    model: str
    digest: str
    """Sha256 (hex) of the model's manifest."""
    notice: str
    images: Sequence[str] = field(repr=False)
    """Each picture that the answer rests on, in words."""
    objects: Sequence[Shown]
    """DICOM objects among what the model was shown; empty where there is none."""


Headers = dict[int, dict[str, str]]
"""What objects say of themselves, by their part of the study."""


def read_headers(objects: Sequence[bytes]) -> Headers:
    """What a report repeats of the objects that it is about; images that are none have nothing.

    Called once the objects were decoded, so what pydicom would unpack without a limit was refused.

    Raises:
        ApiError: 400; they are of several studies or patients, or do not say of which.
    """
    return check_headers(
        {part: _header(data) for part, data in enumerate(objects) if is_dicom(data)}
    )


def check_headers(headers: Headers) -> Headers:
    """Refuse objects that no one report is about.

    Raises:
        ApiError: 400; they are of several studies or patients, or do not say of which.
    """
    told = headers.values()
    if any(not header["StudyInstanceUID"] or not header["SOPInstanceUID"] for header in told):
        raise ApiError(Problem.REPORT_NEEDS_ONE_STUDY, "images")
    if len({(each["StudyInstanceUID"], each["PatientID"]) for each in told}) > 1:
        raise ApiError(Problem.REPORT_NEEDS_ONE_STUDY, "images")
    return headers


def _header(data: bytes) -> dict[str, str]:
    import pydicom

    wanted: list[Any] = [*IDENTITY, "SpecificCharacterSet"]
    found = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True, specific_tags=wanted)
    return {name: str(found.get(name) or "") for name in IDENTITY}
