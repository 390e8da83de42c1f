"""`POST /v1/reports`: a study in, a report out in a form that clinical systems take.

```
{"model": "...", "format": "dicom_sr", "store": true,
 "images": ["data:application/dicom;base64,..."]}
```

In place of images a request may name a study of that server, `"study": "1.2.840...."`.
The model is asked for its report as any client would ask; what it says becomes a DICOM Structured
Report (TID 1500) or a FHIR R4 DiagnosticReport. Both are preliminary, name the model with its
digest as the device, and the images that the answer rests on. On request a structured report is
stored on the DICOMweb server of `serve.dicomweb`.
"""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sonoray.ingest.dicomweb.server_url import Address, read_address
from sonoray.study.prompt import with_site
from sonoray_serve.clinic.dicom_sr import to_bytes, to_sr
from sonoray_serve.clinic.fhir import to_fhir
from sonoray_serve.clinic.findings import (
    IDENTITY,
    Findings,
    Headers,
    Shown,
    check_headers,
    read_headers,
)
from sonoray_serve.clinic.stow import store
from sonoray_serve.intake.study_server import AskedUids, StudyServer
from sonoray_serve.pictures.data_urls import read_data_url
from sonoray_serve.pictures.dicom_pictures import is_dicom
from sonoray_serve.problems import ApiError, Problem
from sonoray_serve.settings import MAX_ITEMS, Limits
from sonoray_serve.shapes.answers import ChatCompletion
from sonoray_serve.shapes.api import Uid, parse_request

_STUDY_PLACE = "study"

QUESTIONS = {"zh": "请描述超声所见。", "en": "Please describe the ultrasound findings."}
"""What asks for a report where the request does not."""

Ask = Callable[[bytes], Awaitable[ChatCompletion]]
"""Answers the body of a chat request."""

InTime = Callable[[], AbstractAsyncContextManager[None]]
"""Ends what runs in it when the request's time is over."""


class ReportRequest(BaseModel):
    """Body of `POST /v1/reports`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    model: str
    images: Annotated[list[str], Field(max_length=MAX_ITEMS)] = []
    """One study, as `data:` URLs; a structured report needs DICOM objects."""
    study: Uid | None = None
    """Study Instance UID of a study of the service's DICOMweb server, in place of images."""
    instances: Annotated[list[Uid], Field(min_length=1, max_length=MAX_ITEMS)] | None = None
    """SOP Instance UIDs of that study, where not all of it is meant."""
    format: Literal["dicom_sr", "fhir"]
    language: Literal["zh", "en"] = "zh"
    """Of the report."""
    question: str | None = None
    """What asks for the report; a usual question where absent."""
    site: str | None = None
    """Examination site, for a model that was trained to be told it."""
    max_tokens: int | None = Field(default=None, ge=1)
    store: bool = False
    """Store the structured report on the DICOMweb server of this service."""


class Report(BaseModel):
    """A report."""

    object: Literal["report"] = "report"
    id: str
    """Of the answer that it holds, for feedback."""
    model: str
    digest: str
    """Sha256 of the served model's manifest."""
    format: Literal["dicom_sr", "fhir"]
    dicom: str | None = None
    """The structured report as a file, in base64."""
    sop_instance_uid: str | None = None
    """Of the structured report."""
    fhir: dict[str, Any] | None = None
    """The DiagnosticReport."""
    text: str
    stored: bool
    """Whether the DICOMweb server has it."""
    notice: str
    left_out: dict[str, int] = Field(default={}, exclude_if=lambda value: not value)
    """Of a study that was fetched by its UID: objects that gave no picture, by reason."""
    remarks: list[str] = Field(default=[], exclude_if=lambda value: not value)
    """What a reader must know of this answer, one line each."""


class Reports:
    """Makes reports of answers."""

    def __init__(self, dicomweb: str, *, limits: Limits, server: StudyServer) -> None:
        """Check the address.

        Args:
            dicomweb: where reports are stored; empty where nowhere.
            limits: the service's.
            server: has the studies that requests name by UID.

        Raises:
            ConfigError: the address is none, or its credentials are not to be used.
        """
        self._limits = limits
        self._server = server
        self._address: Address | None = read_address(dicomweb) if dicomweb else None

    async def make(self, body: Awaitable[bytes], ask: Ask, in_time: InTime) -> Report:
        """Make one report.

        Args:
            body: the body as it arrives.
            ask: answers what the report says.
            in_time: ends what runs in it with the request's time.

        Raises:
            ApiError: the request is refused, or the report was not stored.
        """
        async with in_time():
            data = await body
        request, objects, chat = await asyncio.to_thread(self._read, data)
        del data
        answer = await ask(chat)
        async with in_time():
            headers = await self._headers(request, objects, answer)
        return await asyncio.to_thread(self._write, request, headers, answer)

    async def _headers(
        self, request: ReportRequest, objects: list[bytes], answer: ChatCompletion
    ) -> Headers:
        """What the objects say of themselves, by their part of the study."""
        if request.study is None:
            return await asyncio.to_thread(read_headers, objects)
        parts = {image.part: image.instance or "" for image in answer.sonoray.images}
        asked = AskedUids(study=request.study, instances=tuple(parts.values()), place=_STUDY_PLACE)
        told = await self._server.headers(asked, IDENTITY)
        if not told.keys() >= set(parts.values()):
            raise ApiError(Problem.STUDY_NOT_FOUND, _STUDY_PLACE)
        return check_headers({part: told[uid] for part, uid in parts.items()})

    def _read(self, body: bytes) -> tuple[ReportRequest, list[bytes], bytes]:
        request = parse_request(ReportRequest, body, self._limits.max_marks)
        if request.store and request.format != "dicom_sr":
            raise ApiError(Problem.ONLY_SR_IS_STORED, "store")
        if request.store and self._address is None:
            raise ApiError(Problem.NO_DICOMWEB, "store")
        named = request.study is not None or request.instances is not None
        if named and request.images:
            raise ApiError(Problem.STUDY_AND_IMAGES, _STUDY_PLACE)
        if request.study is None and not request.images:
            raise ApiError(Problem.NO_STUDY_NAMED, "images")
        if len(request.images) > self._limits.max_images:
            raise ApiError(Problem.TOO_MANY_IMAGES, "images", self._limits.max_images)
        objects = [
            read_data_url(url, f"images[{number}]", self._limits)
            for number, url in enumerate(request.images)
        ]
        if request.format == "dicom_sr" and not all(map(is_dicom, objects)):
            raise ApiError(Problem.REPORT_NEEDS_DICOM, "images")
        question = request.question or QUESTIONS[request.language]
        if request.site:
            question = with_site(question, request.site)
        parts = [{"type": "image_url", "image_url": {"url": url}} for url in request.images]
        content = [*parts, {"type": "text", "text": question}]
        chat = {
            "model": request.model,
            "messages": [{"role": "user", "content": content}],
            **({"max_tokens": request.max_tokens} if request.max_tokens else {}),
            **({"sonoray": request.model_dump(include={"study", "instances"})} if named else {}),
        }
        return request, objects, json.dumps(chat).encode()

    def _write(self, request: ReportRequest, headers: Headers, answer: ChatCompletion) -> Report:
        findings = _findings(request, headers, answer)
        made: dict[str, Any] = {}
        if request.format == "dicom_sr":
            document = to_sr(findings, version=version("sonoray"))
            if request.store:
                assert self._address is not None
                store(document, self._address)
            made["dicom"] = base64.b64encode(to_bytes(document)).decode()
            made["sop_instance_uid"] = str(document.SOPInstanceUID)
        else:
            issued = datetime.now(UTC).isoformat(timespec="seconds")
            made["fhir"] = to_fhir(findings, issued=issued, version=version("sonoray"))
        return Report(
            id=answer.id,
            model=findings.model,
            digest=findings.digest,
            format=request.format,
            text=findings.text,
            stored=request.store,
            notice=findings.notice,
            left_out=answer.sonoray.left_out,
            remarks=answer.sonoray.remarks,
            **made,
        )


def _findings(request: ReportRequest, headers: Headers, answer: ChatCompletion) -> Findings:
    told = answer.sonoray
    chosen = [image for image in told.images if image.selected]
    shown = [
        Shown(
            header=header,
            chosen_frames=[image.frame for image in chosen if image.part == part],
        )
        for part, header in sorted(headers.items())
    ]
    return Findings(
        answer_id=answer.id,
        text=answer.choices[0].message.content or "",
        asked_first=[(each.question, each.answer) for each in told.asked_first],
        language=request.language,
        model=told.model,
        digest=told.digest,
        notice=told.notice,
        images=[
            f"image {image.part + 1}, frame {image.frame + 1}: {image.score:.1%} of the attention"
            for image in chosen
        ],
        objects=shown,
    )
