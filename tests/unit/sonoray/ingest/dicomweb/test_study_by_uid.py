"""The service is asked about a study by its UID, which a real Orthanc has."""

import asyncio
import base64
import io
import json
import logging
import socket
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pydicom
import pytest
import uvicorn
from fastapi import FastAPI

from llava_ultra.objectives.recognise import RecognitionObjective
from llava_ultra.testing import tiny_artifact, tiny_config
from sonoray.ingest.dicomweb.server_url import PASSWORD_VARIABLE, USER_VARIABLE, read_address
from sonoray.ingest.sources.dicomweb_server import DicomWebSource
from sonoray.privacy.deidentify import clean_picture
from sonoray.privacy.keys import IdentityKey
from sonoray_serve.http.flow import Chat
from sonoray_serve.http.recognition import Recognitions
from sonoray_serve.http.routes import create_api
from sonoray_serve.http.testing import (
    QUESTION,
    dicom_object,
    random_study,
    to_data_url,
    user_message,
)
from sonoray_serve.intake.encoder import StudyEncoder
from sonoray_serve.intake.stored_pictures import read_study
from sonoray_serve.intake.study_server import AskedUids, StudyServer
from sonoray_serve.keys.auth import digest_key
from sonoray_serve.pictures.study_pictures import StudyPictures
from sonoray_serve.problems import ApiError
from sonoray_serve.replicas.engine import Engine
from sonoray_serve.replicas.loading import ModelSource
from sonoray_serve.replicas.vision import Vision
from sonoray_serve.settings import AppArgs, Batching, DicomReading, KeyTerms, Limits, ServeConfig

CHAT = "/v1/chat/completions"
KEY, NARROW = "unit-test-key-0123456789", "narrow-key-0123456789abc"
STUDY = "1.2.2"  # two loops of two frames


@pytest.fixture(autouse=True)
def credentials(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "orthanc" in request.fixturenames:
        orthanc = request.getfixturevalue("orthanc")
        monkeypatch.setenv(USER_VARIABLE, orthanc.user)
        monkeypatch.setenv(PASSWORD_VARIABLE, orthanc.password)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    folder = tmp_path_factory.mktemp("exported") / "model"
    config = tiny_config()
    objectives = (*config.objectives, RecognitionObjective())
    config = config.model_copy(update={"objectives": objectives})
    tiny_artifact(folder, lively=True, config=config)
    return ModelSource(model=str(folder), digest="", workspace="", device="cpu")


@pytest.fixture(scope="module")
def vision(source: ModelSource) -> Vision:
    return Vision(source, num_threads=1, weights_check_period_s=300, image_bytes=0)


@pytest.fixture
def make_api(source: ModelSource, vision: Vision) -> Callable[..., FastAPI]:
    engine = Engine(source, Batching(max_answers=1, stream_interval_s=0))
    (card,) = asyncio.run(engine.cards()).values()

    def make(url: str, workspace: str = ".sonoray", **limits: float) -> FastAPI:
        config = ServeConfig(dicomweb=url, limits=Limits(**limits))
        args = AppArgs(
            model="unused",
            workspace=workspace,
            api_key_digests=tuple(map(digest_key, (KEY, NARROW))),
            key_terms={digest_key(NARROW): KeyTerms(scopes=("chat",))},
            config=config,
        )
        encoder = StudyEncoder(vision, limits=config.limits)
        server = StudyServer(url, limits=config.limits)
        common: dict[str, Any] = {
            "engine": engine,
            "limits": config.limits,
            "encoder": encoder,
            "server": server,
        }
        chat = Chat(vision=vision, models={args.model_name: card}, **common)
        return create_api(chat, args, Recognitions(models=lambda: chat.models, **common))

    return make


def call(api: FastAPI, *bodies: dict[str, Any], path: str = CHAT, key: str = KEY) -> list[Any]:
    async def send() -> list[httpx2.Response]:
        transport = httpx2.ASGITransport(app=api, raise_app_exceptions=True)
        headers = {"Authorization": f"Bearer {key}"}
        async with httpx2.AsyncClient(transport=transport, base_url="http://t") as client:
            return [await client.post(path, json=body, headers=headers) for body in bodies]

    return asyncio.run(send())


def ask(study: str = STUDY, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": QUESTION}]
    asked = {"study": study, **more}
    return {"model": "llava-ultra", "messages": messages, "max_tokens": 16, "sonoray": asked}


def objects_of(orthanc: Any, study: str) -> list[bytes]:
    """The objects of a study, in the order of series and instance."""
    found = []
    for path in orthanc.folder.glob("*.dcm"):
        header = pydicom.dcmread(path, stop_before_pixels=True)
        if header.StudyInstanceUID == study:
            order = (header.SeriesNumber, header.InstanceNumber)
            found.append((order, str(header.SOPInstanceUID), path.read_bytes()))
    return [data for _, _, data in sorted(found)]


def fetched(server: Any) -> list[str]:
    """Instances that were fetched of it."""
    paths = [request.path.split("/") for request in server.requests]
    return [path[-1] for path in paths if "series" in path and path[-2] == "instances"]


def test_the_answer_is_that_on_the_same_objects_sent(
    orthanc: Any, make_api: Callable[..., FastAPI], caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)
    objects = objects_of(orthanc, STUDY)
    urls = [to_data_url(data, "application/dicom") for data in objects]
    content = [
        *({"type": "image_url", "image_url": {"url": url}} for url in urls),
        {"type": "text", "text": QUESTION},
    ]
    sent = {**ask(), "messages": [{"role": "user", "content": content}]}
    del sent["sonoray"]
    by_uid, by_sending = call(make_api(orthanc.url), ask(), sent)
    assert by_uid.status_code == 200, by_uid.text
    answer, same = by_uid.json(), by_sending.json()
    assert answer["choices"] == same["choices"]
    told = [image.pop("instance") for image in answer["sonoray"]["images"]]
    assert answer["sonoray"] == same["sonoray"]
    assert len(told) == 4
    uids = [str(pydicom.dcmread(io.BytesIO(data)).SOPInstanceUID) for data in objects]
    assert told == [uid for uid in uids for _ in range(2)]
    ours = [record for record in caplog.records if record.name != "httpx2"]
    assert not any(STUDY in record.getMessage() for record in ours)


def test_a_second_question_fetches_nothing_and_another_object_is_another_study(
    orthanc: Any, proxy: Callable[..., Any], make_api: Callable[..., FastAPI]
):
    import urllib3

    server = proxy()
    api = make_api(server.url)
    first, second = call(api, ask(), ask())
    assert len(fetched(server)) == 2
    assert first.json()["choices"] == second.json()["choices"]
    assert first.json()["sonoray"] == second.json()["sonoray"]
    (shown,) = call(api, ask(thumbnails=True))  # needs the pixels again
    assert len(fetched(server)) == 4
    assert all(image["thumbnail"] for image in shown.json()["sonoray"]["images"])

    data = pydicom.dcmread(io.BytesIO(objects_of(orthanc, STUDY)[0]))
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = "1.2.2.9.9"
    data.InstanceNumber = 9
    file = io.BytesIO()
    data.save_as(file)
    http = urllib3.PoolManager()
    made = http.request(
        "POST", f"{orthanc.root}/instances", body=file.getvalue(), headers=orthanc.headers
    ).json()
    try:
        (third,) = call(api, ask())
    finally:
        http.request("DELETE", f"{orthanc.root}/instances/{made['ID']}", headers=orthanc.headers)
    assert len(fetched(server)) == 7
    assert len(third.json()["sonoray"]["images"]) == 6


def test_some_instances_may_be_named(orthanc: Any, make_api: Callable[..., FastAPI]):
    uid = "1.2.3.0.2"
    (answer,) = call(make_api(orthanc.url), ask("1.2.3", instances=[uid]))
    assert {image["instance"] for image in answer.json()["sonoray"]["images"]} == {uid}
    (answer,) = call(make_api(orthanc.url), ask("1.2.3", instances=[uid, "1.2.2.0.2"]))
    assert (answer.status_code, answer.json()["error"]["param"]) == (404, "sonoray.instances")


def test_every_study_gives_the_pictures_that_ingest_makes_of_it(orthanc: Any, tmp_path: Path):
    reading = DicomReading()
    limits = Limits(
        max_images=1_000,
        max_study_pixels=10**9,
        max_object_bytes=10**9,
        max_fetched_bytes=10**9,
    )
    server, pictures = StudyServer(orthanc.url, limits=limits), StudyPictures(limits, reading)
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in orthanc.folder.iterdir()]
    studies = sorted({str(each.StudyInstanceUID) for each in headers if "StudyInstanceUID" in each})
    ingested = DicomWebSource(read_address(orthanc.url), [("ModalitiesInStudy", "")])
    key = IdentityKey(b"k" * 32)
    expected: dict[str, Any] = {}
    with ingested.fetched(tmp_path / "spool", key, is_needed=True):
        for study in ingested.iter_studies():
            expected[study.ref] = study
    num_pictures = num_refused = 0
    for uid in studies:
        study = expected[uid]
        if study.problem:  # without a patient, which matters to a split alone
            continue
        kept = [image for image in study.images if not image.problem]

        async def read(uid: str = uid) -> Any:
            listed = await server.find(AskedUids(study=uid), 1_000)
            async with server.fetched(listed) as objects:
                return read_study(objects, 1_000, source=pictures, place="study")

        if not kept:
            with pytest.raises(ApiError, match="study_not_usable"):
                asyncio.run(read())
            num_refused += 1
            continue
        found = asyncio.run(read())
        cleaned = [
            clean_picture(
                image.data, reading.deidentify, known=study.identifiers, is_cut=image.is_cut
            )[0]
            for image in kept
        ]
        assert [picture.frame for picture in found.pictures] == [i.frame_index for i in kept]
        for picture, pixels in zip(found.pictures, cleaned, strict=True):
            np.testing.assert_array_equal(picture.pixels, pixels)
        reasons = Counter(i.problem.partition(":")[0] for i in study.images if i.problem)
        assert dict(found.left_out) == dict(reasons)
        num_pictures += len(kept)
    assert num_pictures > 40
    assert num_refused > 0


@pytest.mark.parametrize(
    ("asked", "status", "code", "param"),
    [
        (ask("1.2.999"), 404, "study_not_found", "sonoray.study"),
        (ask("1.2/../3"), 400, "invalid_value", "sonoray.study"),
        (ask("1." * 32 + "1"), 400, "invalid_value", "sonoray.study"),
        (ask(instances=["*"]), 400, "invalid_value", "sonoray.instances[0]"),
        ({**ask(), "sonoray": {"instances": ["1.2"]}}, 400, "no_study_named", "sonoray.study"),
        (
            {**ask(), "messages": [user_message(random_study(1))]},
            *(400, "study_and_images", "sonoray.study"),
        ),
    ],
)
def test_what_names_no_study_is_refused(
    orthanc: Any,
    make_api: Callable[..., FastAPI],
    asked: dict[str, Any],
    status: int,
    code: str,
    param: str,
):
    (answer,) = call(make_api(orthanc.url), asked)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param)
    assert asked["sonoray"].get("study", "none") not in answer.text


def test_a_service_without_a_server_and_a_key_without_the_scope_say_so(
    orthanc: Any, make_api: Callable[..., FastAPI]
):
    (answer,) = call(make_api(""), ask())
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "no_study_server")
    assert "serve.dicomweb" in answer.json()["error"]["message"]
    (answer,) = call(make_api(orthanc.url), ask(), key=NARROW)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "key_not_for_studies")
    body = {"model": "llava-ultra", "study": STUDY, "bank": "breast-zh"}
    (answer,) = call(make_api(orthanc.url), body, path="/v1/recognize", key=NARROW)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "key_not_for_studies")


def test_a_server_that_fails_is_told_apart_from_a_study_that_is_not_there(
    orthanc: Any,
    make_api: Callable[..., FastAPI],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    (answer,) = call(make_api("http://127.0.0.1:9/dicom-web"), ask())
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "study_server_away")
    assert int(answer.headers["Retry-After"]) >= 2
    assert "cannot be reached" in caplog.text
    monkeypatch.setenv(PASSWORD_VARIABLE, "not-the-password")
    (answer,) = call(make_api(orthanc.url), ask())
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "study_not_fetched")
    assert "refuses the credentials" in caplog.text
    assert "not-the-password" not in caplog.text + answer.text


@pytest.mark.parametrize(
    ("status", "code", "answered"),
    [
        (500, "study_server_away", 503),
        (403, "study_not_found", 404),
        (400, "study_not_fetched", 502),
    ],
)
def test_what_a_server_says_instead_of_a_list_is_told_by_what_may_help(
    serve: Callable[..., Any],
    reply: Callable[..., Any],
    make_api: Callable[..., FastAPI],
    status: int,
    code: str,
    answered: int,
):
    server = serve(lambda *_: reply(status, body=b"patient-canary"))
    (answer,) = call(make_api(server.url), ask())
    assert (answer.status_code, answer.json()["error"]["code"]) == (answered, code)
    assert "canary" not in answer.text


def test_an_object_that_cannot_be_had_is_said_and_asked_for_again(
    orthanc: Any, proxy: Callable[..., Any], reply: Callable[..., Any], make_api: Any
):
    def fault(request: Any, _: int) -> Any:
        return reply(500) if request.path.endswith("/instances/1.2.2.0.2") else None

    server = proxy(fault)
    api = make_api(server.url)
    for number in (1, 2):
        (answer,) = call(api, ask())
        told = answer.json()["sonoray"]
        assert told["left_out"] == {"fetch_failed": 1}
        assert ["could not be had or read" in remark for remark in told["remarks"]] == [True]
        assert {image["instance"] for image in told["images"]} == {"1.2.2.1.1"}
        assert Counter(fetched(server)) == {"1.2.2.1.1": number, "1.2.2.0.2": 2 * number}


@pytest.mark.parametrize(
    ("limits", "code", "num_fetched"),
    [
        ({"max_images": 1}, "study_has_too_many_pictures", 0),
        ({"max_images": 3}, "study_has_too_many_pictures", 2),
        ({"max_fetched_bytes": 6_000}, "study_too_large", None),
        ({"max_object_bytes": 1_000}, "study_not_usable", 2),
        ({"max_study_pixels": 4_000}, "image_too_many_pixels", 2),
    ],
)
def test_caps_hold_before_anything_is_decoded(
    proxy: Callable[..., Any],
    orthanc: Any,
    make_api: Callable[..., FastAPI],
    limits: dict[str, float],
    code: str,
    num_fetched: int | None,
):
    server = proxy()
    (answer,) = call(make_api(server.url, **limits), ask())
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code), answer.text
    assert num_fetched is None or len(fetched(server)) == num_fetched


def test_objects_of_several_patients_or_of_another_study_are_not_answered_about(
    serve: Callable[..., Any], reply: Callable[..., Any], make_api: Callable[..., FastAPI]
):
    objects = {
        "1.2.826.1.2.1": dicom_object(1),
        "1.2.826.1.2.2": dicom_object(2, patient="P2"),
        "1.2.826.1.2.3": dicom_object(3, study="1.2.826.9"),
    }
    listed = ["1.2.826.1.2.1", "1.2.826.1.2.2"]

    def answer(request: Any, _: int) -> Any:
        name = request.path.split("/")[-1]
        if name in objects:
            kind = {"Content-Type": "application/dicom"}
            return reply(body=objects[name], headers=kind)
        if request.fields.get("offset", "0") != "0":
            return reply(json_value=[])
        items = [
            {"0020000E": {"vr": "UI", "Value": ["1.2"]}, "00080018": {"vr": "UI", "Value": [uid]}}
            for uid in listed
        ]
        return reply(json_value=items)

    server = serve(answer)
    (refused,) = call(make_api(server.url), ask("1.2.826.1"))
    assert refused.json()["error"]["code"] == "study_of_several_patients"
    listed[1:] = ["1.2.826.1.2.3"]
    (answered,) = call(make_api(server.url), ask("1.2.826.1"))
    told = answered.json()["sonoray"]
    assert told["left_out"] == {"other_study": 1}
    assert {image["instance"] for image in told["images"]} == {"1.2.826.1.2.1"}


def test_recognition_and_reports_take_it_too_and_the_report_goes_to_the_same_server(
    orthanc: Any, make_api: Callable[..., FastAPI]
):
    import urllib3

    api = make_api(orthanc.url)
    asked = {"model": "llava-ultra", "study": STUDY}
    (found,) = call(api, {**asked, "bank": "breast-zh"}, path="/v1/recognize")
    assert found.status_code == 200, found.text
    assert sum(each["share"] for each in found.json()["classes"]) == pytest.approx(1)
    body = {**asked, "question": QUESTION, "max_tokens": 8}
    (fhir,) = call(api, {**body, "format": "fhir"}, path="/v1/reports")
    assert fhir.json()["fhir"]["subject"]["identifier"]["value"] == "P2"
    (report,) = call(api, {**body, "format": "dicom_sr", "store": True}, path="/v1/reports")
    assert report.status_code == 200, report.text
    document = pydicom.dcmread(io.BytesIO(base64.b64decode(report.json()["dicom"])))
    assert (document.StudyInstanceUID, document.PatientID) == (STUDY, "P2")
    http = urllib3.PoolManager()
    uid = str(document.SOPInstanceUID)
    name = http.request(
        "POST", f"{orthanc.root}/tools/lookup", body=uid.encode(), headers=orthanc.headers
    ).json()[0]["ID"]
    try:  # the report is one more object of the study, and no picture
        (again,) = call(api, ask())
    finally:
        http.request("DELETE", f"{orthanc.root}/instances/{name}", headers=orthanc.headers)
    assert len(again.json()["sonoray"]["images"]) == 4
    assert json.loads(again.text)["sonoray"].get("remarks") == []


def test_feedback_keeps_the_pictures_of_the_study_and_not_its_name(
    orthanc: Any, make_api: Callable[..., FastAPI], tmp_path: Path
):
    api = make_api(orthanc.url, workspace=str(tmp_path))
    (answer,) = call(api, ask())
    said = {"answer_id": answer.json()["id"], "rating": "good", "study": STUDY}
    (kept,) = call(api, said, path="/v1/feedback")
    assert kept.json()["num_images"] == 4
    assert STUDY.encode() not in (tmp_path / "feedback.db").read_bytes()
    (refused,) = call(api, {**said, "images": ["data:image/png;base64,"]}, path="/v1/feedback")
    assert refused.json()["error"]["code"] == "study_and_images"


def test_ask_names_the_instances_that_the_answer_rests_on(
    orthanc: Any, make_api: Callable[..., FastAPI]
):
    from sonoray_jobs.service.service_client import ask as ask_service

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        config = uvicorn.Config(make_api(orthanc.url), log_level="warning", lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        try:
            reply = ask_service(QUESTION, [], url=url, api_key=KEY, study_uid=STUDY, max_tokens=8)
        finally:
            server.should_exit = True
            thread.join()
    names = [image.name for image in reply.images]
    assert names == ["1.2.2.0.2", "1.2.2.0.2#1", "1.2.2.1.1", "1.2.2.1.1#1"]
