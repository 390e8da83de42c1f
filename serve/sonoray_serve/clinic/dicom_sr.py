"""Findings as a DICOM Structured Report: Comprehensive SR after TID 1500 (PS3.16).

The document belongs to the study of its images and to their patient. It is preliminary and
unverified; its observer is a device, the model, whose UID follows from its digest. The text is a
finding in the measurement group, with the chosen images (and frames of a loop) as its source, the
closed questions that it follows and the research-use notice as comments. All of the study's objects
that the model was shown are its evidence.

TID 1500 asks for coded findings and an answer is words, which TID 1501 allows as an extension.
"""

import io
from typing import TYPE_CHECKING

from sonoray_serve.clinic.findings import Findings, Shown

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

SERIES_NUMBER = 990
"""Of every report: behind the scanner's own series."""

_LANGUAGES = {"zh": "Chinese", "en": "English"}


def to_sr(findings: Findings, *, version: str) -> "Dataset":
    """Write findings as a structured report.

    Args:
        findings: with at least one object.
        version: of this software.
    """
    from highdicom import UID
    from highdicom.sr import (
        ComprehensiveSR,
        LanguageOfContentItemAndDescendants,
        MeasurementReport,
    )
    from pydicom.sr.coding import Code

    language = Code(findings.language, "RFC5646", _LANGUAGES[findings.language])
    content = MeasurementReport(
        observation_context=_device(findings),
        procedure_reported=Code("16310003", "SCT", "Ultrasonography"),
        imaging_measurements=[_group(findings)],
        language_of_content_item_and_descendants=LanguageOfContentItemAndDescendants(language),
    )
    document: Dataset = ComprehensiveSR(
        evidence=[_evidence(shown) for shown in findings.objects],
        content=content,
        series_instance_uid=UID(),
        series_number=SERIES_NUMBER,
        series_description="SonoRay, for research only",
        sop_instance_uid=UID(),
        instance_number=1,
        manufacturer="SonoRay",
        manufacturer_model_name=findings.model[:64],
        device_serial_number=findings.digest[:64],
        software_versions=version,
        is_complete=True,
        is_final=False,
        specific_character_set="ISO_IR 192",
    )
    return document


def device_uid(digest: str) -> str:
    """The UID of a model: 2.25 and the first 128 bits of its digest (PS3.5 annex B.2)."""
    return f"2.25.{int(digest[:32], 16)}"


def to_bytes(document: "Dataset") -> bytes:
    """A document as a DICOM file."""
    file = io.BytesIO()
    document.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _device(findings: Findings) -> object:
    from highdicom.sr import (
        DeviceObserverIdentifyingAttributes,
        ObservationContext,
        ObserverContext,
    )
    from pydicom.sr.codedict import codes

    device = DeviceObserverIdentifyingAttributes(
        uid=device_uid(findings.digest),
        name="SonoRay",
        manufacturer_name="SonoRay",
        model_name=findings.model,
        serial_number=findings.digest,
    )
    observer = ObserverContext(
        observer_type=codes.cid270.Device, observer_identifying_attributes=device
    )
    return ObservationContext(observer_device_context=observer)


def _group(findings: Findings) -> object:
    from highdicom import UID
    from highdicom.sr import (
        AlgorithmIdentification,
        MeasurementsAndQualitativeEvaluations,
        RelationshipTypeValues,
        SourceImageForMeasurementGroup,
        TextContentItem,
        TrackingIdentifier,
    )
    from pydicom.sr.coding import Code

    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid=UID(), identifier=findings.answer_id),
        algorithm_id=AlgorithmIdentification(
            name=findings.model, version=findings.digest, manufacturer="SonoRay"
        ),
        source_images=[
            SourceImageForMeasurementGroup(
                referenced_sop_class_uid=shown.header["SOPClassUID"],
                referenced_sop_instance_uid=shown.header["SOPInstanceUID"],
                referenced_frame_numbers=(
                    [frame + 1 for frame in shown.chosen_frames] if shown.is_loop else None
                ),
            )
            for shown in findings.objects
            if shown.chosen_frames
        ],
    )
    finding, comment = Code("121071", "DCM", "Finding"), Code("121106", "DCM", "Comment")
    said = [(finding, findings.text)]
    said += [(comment, f"{question} {answer}") for question, answer in findings.asked_first]
    said.append((comment, findings.notice))
    for name, text in said:
        group[0].ContentSequence.append(
            TextContentItem(
                name=name, value=text, relationship_type=RelationshipTypeValues.CONTAINS
            )
        )
    return group


def _evidence(shown: Shown) -> "Dataset":
    from pydicom.dataset import Dataset

    evidence = Dataset()
    evidence.SpecificCharacterSet = "ISO_IR 192"
    for name, value in shown.header.items():
        if value or name not in ("IssuerOfPatientID", "NumberOfFrames"):
            setattr(evidence, name, value)
    return evidence
