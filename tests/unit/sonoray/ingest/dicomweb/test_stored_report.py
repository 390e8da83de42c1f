"""A report that the service makes, stored on a real Orthanc and read from it again."""

import io
from dataclasses import replace
from typing import Any

import pydicom
import pytest
import urllib3

from sonoray.ingest.dicomweb.server_url import Address, read_address
from sonoray_serve.clinic.dicom_sr import to_sr
from sonoray_serve.clinic.findings import Findings, Shown, read_headers
from sonoray_serve.clinic.stow import store
from sonoray_serve.problems import ApiError, Problem


def findings(objects: list[bytes]) -> Findings:
    return Findings(
        answer_id="chatcmpl-1",
        text="右叶见低回声结节，边界清。",
        asked_first=[("良性还是恶性？", "良性")],
        language="zh",
        model="llava-ultra",
        digest="ab" * 32,
        notice="For research only.",
        images=["image 1, frame 2: 80.0% of the attention"],
        objects=[
            Shown(header=header, chosen_frames=[1] if number == 0 else [])
            for number, header in read_headers(objects).items()
        ],
    )


@pytest.fixture
def address(orthanc: Any) -> Address:
    environment = {
        "SONORAY_DICOMWEB_USER": orthanc.user,
        "SONORAY_DICOMWEB_PASSWORD": orthanc.password,
    }
    return read_address(orthanc.url, environment=environment)


def test_orthanc_shows_the_report_with_its_study(orthanc: Any, address: Address):
    paths = [
        path
        for path in sorted(orthanc.folder.glob("*.dcm"))
        if pydicom.dcmread(path, stop_before_pixels=True).StudyInstanceUID == "1.2.1"
    ]
    objects = [path.read_bytes() for path in paths]
    document = to_sr(findings(objects), version="1")
    store(document, address)
    http = urllib3.PoolManager()
    root = f"{orthanc.url}/studies/1.2.1"
    listed = http.request(
        "GET", f"{root}/instances?Modality=SR&includefield=00080016", headers=orthanc.headers
    ).json()
    assert str(document.SOPInstanceUID) in str(listed)
    series = f"{root}/series/{document.SeriesInstanceUID}/instances/{document.SOPInstanceUID}"
    found = http.request(
        "GET",
        series,
        headers={**orthanc.headers, "Accept": 'multipart/related; type="application/dicom"'},
    ).data
    start = found.index(b"DICM") - 128
    read = pydicom.dcmread(io.BytesIO(found[start:]))
    assert "右叶见低回声结节" in str(read)
    assert read.PatientID == "P1"
    http.request(
        "DELETE",
        f"{orthanc.root}/instances/{_number(http, orthanc, document)}",
        headers=orthanc.headers,
    )


def _number(http: urllib3.PoolManager, orthanc: Any, document: Any) -> str:
    """Orthanc's own name of an instance."""
    body = str(document.SOPInstanceUID).encode()
    found = http.request("POST", f"{orthanc.root}/tools/lookup", body=body, headers=orthanc.headers)
    name: str = found.json()[0]["ID"]
    return name


def test_what_orthanc_refuses_is_not_stored(orthanc: Any, address: Address):
    path = next(iter(sorted(orthanc.folder.glob("*.dcm"))))
    document = to_sr(findings([path.read_bytes()]), version="1")
    with pytest.raises(ApiError) as caught:
        store(document, replace(address, authorization="Basic bm9ib2R5Om5vdGhpbmc="))
    assert caught.value.problem is Problem.NOT_STORED
