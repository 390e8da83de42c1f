"""Findings as a FHIR R4 DiagnosticReport.

It is preliminary. Its result is one Observation, contained in it, whose device is the model: in R4
a report's performer is a person or an organisation, so that a device can only stand at the
observation. Where the images were DICOM objects, the ImagingStudy names those that the answer rests
on, and the subject is the objects' patient, by identifier. A report on other images has no subject:
whoever files it knows whose they are.
"""

from collections.abc import Sequence
from html import escape
from typing import Any

from sonoray_serve.clinic.findings import Findings, Shown

_UID = "urn:dicom:uid"
_CODES = "http://terminology.hl7.org/CodeSystem"
_CODE = {
    "coding": [
        {"system": "http://loinc.org", "code": "18748-4", "display": "Diagnostic imaging study"}
    ]
}
_ULTRASOUND = {
    "coding": [{"system": f"{_CODES}/v2-0074", "code": "RUS", "display": "Radiology Ultrasound"}]
}


def to_fhir(findings: Findings, *, issued: str, version: str) -> dict[str, Any]:
    """Write findings as a DiagnosticReport.

    Args:
        findings: what it says.
        issued: the instant, with its time zone.
        version: of this software.
    """
    subject = _subject(findings.objects)
    contained: list[dict[str, Any]] = [_device(findings, version)]
    used = [shown for shown in findings.objects if shown.chosen_frames]
    if used:
        contained.append(_imaging_study(used, subject))
    contained.append(_observation(findings, issued, subject, has_study=bool(used)))
    report: dict[str, Any] = {
        "resourceType": "DiagnosticReport",
        "language": findings.language,
        "text": {"status": "generated", "div": _narrative(findings)},
        "contained": contained,
        "identifier": [{"value": findings.answer_id}],
        "status": "preliminary",
        "category": [_ULTRASOUND],
        "code": _CODE,
        **subject,
        "issued": issued,
        "result": [{"reference": "#finding"}],
        "conclusion": findings.text,
    }
    if used:
        report["imagingStudy"] = [{"reference": "#images"}]
    return report


def _device(findings: Findings, version: str) -> dict[str, Any]:
    return {
        "resourceType": "Device",
        "id": "device",
        "identifier": [{"system": "urn:sonoray:model-sha256", "value": findings.digest}],
        "manufacturer": "SonoRay",
        "deviceName": [{"name": findings.model, "type": "model-name"}],
        "version": [{"value": version}],
        "note": [{"text": findings.notice}],
    }


def _observation(
    findings: Findings, issued: str, subject: dict[str, Any], *, has_study: bool
) -> dict[str, Any]:
    notes = [f"{question} {answer}" for question, answer in findings.asked_first]
    return {
        "resourceType": "Observation",
        "id": "finding",
        "status": "preliminary",
        "category": [{"coding": [{"system": f"{_CODES}/observation-category", "code": "imaging"}]}],
        "code": _CODE,
        **subject,
        "issued": issued,
        "device": {"reference": "#device"},
        "valueString": findings.text,
        "note": [{"text": text} for text in (*notes, *findings.images, findings.notice)],
        **({"derivedFrom": [{"reference": "#images"}]} if has_study else {}),
    }


def _imaging_study(used: Sequence[Shown], subject: dict[str, Any]) -> dict[str, Any]:
    by_series: dict[str, list[Shown]] = {}
    for shown in used:
        by_series.setdefault(shown.header["SeriesInstanceUID"], []).append(shown)
    return {
        "resourceType": "ImagingStudy",
        "id": "images",
        "identifier": [{"system": _UID, "value": f"urn:oid:{used[0].header['StudyInstanceUID']}"}],
        "status": "available",
        **(subject or {"subject": {"display": "unknown"}}),
        "series": [
            {
                "uid": uid,
                "modality": {
                    "system": "http://dicom.nema.org/resources/ontology/DCM",
                    "code": shown[0].header["Modality"] or "US",
                },
                "instance": [
                    {
                        "uid": each.header["SOPInstanceUID"],
                        "sopClass": {
                            "system": "urn:ietf:rfc:3986",
                            "code": f"urn:oid:{each.header['SOPClassUID']}",
                        },
                    }
                    for each in shown
                ],
            }
            for uid, shown in by_series.items()
        ],
    }


def _subject(objects: Sequence[Shown]) -> dict[str, Any]:
    patient = objects[0].header["PatientID"] if objects else ""
    if not patient:
        return {}
    kind = {"coding": [{"system": f"{_CODES}/v2-0203", "code": "MR"}]}
    issuer = objects[0].header["IssuerOfPatientID"]
    assigner = {"assigner": {"display": issuer}} if issuer else {}
    identifier = {"type": kind, "value": patient, **assigner}
    return {"subject": {"type": "Patient", "identifier": identifier}}


def _narrative(findings: Findings) -> str:
    paragraphs = (findings.notice, findings.text)
    told = "".join(f"<p>{escape(text, quote=False)}</p>" for text in paragraphs)
    return f'<div xmlns="http://www.w3.org/1999/xhtml">{told}</div>'
