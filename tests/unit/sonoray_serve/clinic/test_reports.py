"""Reports over HTTP: valid by dciodvfy and FHIR's own model, and refused where they cannot be."""

import asyncio
import base64
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pydicom
import pytest
from fastapi import FastAPI
from fhir.resources.R4B.bundle import Bundle
from fhir.resources.R4B.diagnosticreport import DiagnosticReport
from pydicom.dataset import Dataset

from sonoray.images.decode import encode_png
from sonoray_serve.clinic.dicom_sr import device_uid
from sonoray_serve.http.testing import QUESTION, dicom_object, random_study, to_data_url
from sonoray_serve.settings import ServeConfig

PATH = "/v1/reports"


OBJECTS = [dicom_object(1), dicom_object(2)]


def urls(objects: Sequence[bytes]) -> list[str]:
    return [to_data_url(data, "application/dicom") for data in objects]


def post(api: FastAPI, headers: dict[str, str], **body: Any) -> httpx2.Response:
    async def send() -> httpx2.Response:
        transport = httpx2.ASGITransport(app=api, raise_app_exceptions=True)
        async with httpx2.AsyncClient(transport=transport, base_url="http://t") as client:
            asked = {"model": "llava-ultra", "question": QUESTION, "max_tokens": 16, **body}
            return await client.post(PATH, json=asked, headers=headers)

    return asyncio.run(send())


def items(document: Dataset) -> list[tuple[str, str]]:
    """Concept and text of every text of a document, from the top down."""
    found: list[tuple[str, str]] = []
    for item in document.get("ContentSequence", ()):
        if item.ValueType == "TEXT":
            found.append((item.ConceptNameCodeSequence[0].CodeMeaning, item.TextValue))
        found += items(item)
    return found


def references(document: Dataset) -> list[tuple[str, list[int]]]:
    found = []
    for item in document.get("ContentSequence", ()):
        if item.ValueType == "IMAGE":
            (reference,) = item.ReferencedSOPSequence
            frames = reference.get("ReferencedFrameNumber")
            numbers = [frames] if isinstance(frames, int) else list(frames or ())
            found.append((str(reference.ReferencedSOPInstanceUID), [int(each) for each in numbers]))
        found += references(item)
    return found


def test_a_structured_report_is_valid_and_says_who_says_what_of_which_images(
    make_api: Callable[..., FastAPI], headers: dict[str, str], tmp_path: Path
):
    report = post(make_api(), headers, format="dicom_sr", images=urls(OBJECTS), site=None).json()
    path = tmp_path / "report.dcm"
    path.write_bytes(base64.b64decode(report["dicom"]))
    document = pydicom.dcmread(path)
    assert (document.Modality, document.SpecificCharacterSet) == ("SR", "ISO_IR 192")
    assert (document.PatientID, document.StudyInstanceUID) == ("P1", "1.2.826.1")
    assert "王" in str(document.PatientName)
    assert (document.PreliminaryFlag, document.VerificationFlag) == ("PRELIMINARY", "UNVERIFIED")
    assert document.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert document.SOPInstanceUID == report["sop_instance_uid"]
    texts = items(document)
    assert ("Finding", report["text"]) in texts
    assert ("Comment", report["notice"]) in texts
    assert ("Algorithm Version", report["digest"]) in texts
    assert device_uid(report["digest"]) in str(document)
    answer = dict(references(document))
    assert answer
    assert set(answer) <= {"1.2.826.1.2.1", "1.2.826.1.2.2"}
    assert all(frames and set(frames) <= {1, 2} for frames in answer.values())
    evidence = document.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert len(evidence[0].ReferencedSOPSequence) == 2

    program = shutil.which("dciodvfy")
    assert program is not None
    told = subprocess.run([program, path], capture_output=True, text=True, check=False)
    said = told.stderr + told.stdout
    assert not re.findall(r"^Error.*", said, re.MULTILINE), said
    assert "ComprehensiveSR" in said


@pytest.mark.parametrize("is_dicom", [True, False])
def test_a_diagnostic_report_is_valid_r4_and_names_the_model_as_the_device(
    make_api: Callable[..., FastAPI], headers: dict[str, str], is_dicom: bool
):
    stills = [to_data_url(encode_png(image)) for image in random_study(2)]
    images = urls(OBJECTS) if is_dicom else stills
    report = post(make_api(), headers, format="fhir", images=images, language="en").json()
    checked = DiagnosticReport.model_validate(report["fhir"])
    assert checked.status == "preliminary"
    assert checked.conclusion == report["text"]
    assert Bundle.model_validate(
        {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": report["fhir"]}]}
    )
    contained = {each["id"]: each for each in report["fhir"]["contained"]}
    assert contained["finding"]["device"] == {"reference": "#device"}
    assert contained["finding"]["valueString"] == report["text"]
    assert contained["device"]["identifier"][0]["value"] == report["digest"]
    assert report["notice"] in report["fhir"]["text"]["div"]
    assert ("images" in contained) == is_dicom
    if is_dicom:
        assert report["fhir"]["subject"]["identifier"]["value"] == "P1"
        uids = [each["uid"] for each in contained["images"]["series"][0]["instance"]]
        assert set(uids) <= {"1.2.826.1.2.1", "1.2.826.1.2.2"}
    else:
        assert "subject" not in report["fhir"]


@pytest.mark.parametrize(
    ("body", "code", "status"),
    [
        ({"images": [to_data_url(encode_png(random_study(1)[0]))]}, "report_needs_dicom", 400),
        (
            {"images": urls([dicom_object(1), dicom_object(2, study="1.2.826.9")])},
            "report_needs_one_study",
            400,
        ),
        (
            {"images": urls([dicom_object(1), dicom_object(2, patient="P2")])},
            "report_needs_one_study",
            400,
        ),
        ({"images": urls(OBJECTS), "store": True}, "no_dicomweb", 404),
        ({"images": urls(OBJECTS), "store": True, "format": "fhir"}, "only_sr_is_stored", 400),
        ({"images": urls(OBJECTS), "model": "other"}, "model_not_found", 404),
        ({"images": urls(OBJECTS), "format": "pdf"}, "invalid_value", 400),
        ({"images": urls(OBJECTS), "name": "x"}, "unknown_parameter", 400),
    ],
)
def test_what_cannot_become_a_report_is_refused_by_name(
    make_api: Callable[..., FastAPI],
    headers: dict[str, str],
    body: dict[str, Any],
    code: str,
    status: int,
):
    response = post(make_api(), headers, **{"format": "dicom_sr", **body})
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert "P1" not in response.text


def test_a_server_that_does_not_take_it_is_said_and_nothing_is_claimed(
    make_api: Callable[..., FastAPI], headers: dict[str, str]
):
    config = ServeConfig(dicomweb="http://127.0.0.1:9/dicom-web")
    api = make_api(config=config)
    response = post(api, headers, format="dicom_sr", images=urls(OBJECTS), store=True)
    assert (response.status_code, response.json()["error"]["code"]) == (502, "not_stored")
