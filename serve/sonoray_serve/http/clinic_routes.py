"""The paths of what clinicians do with answers: `/v1/feedback` and `/v1/reports`."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from sonoray_serve.clinic.feedback import FeedbackBook, FeedbackReceipt, FeedbackRequest
from sonoray_serve.clinic.reports import Report, ReportRequest, Reports
from sonoray_serve.http.deadline import Deadline
from sonoray_serve.http.description import WORK_ERRORS, body_of
from sonoray_serve.http.flow import Chat
from sonoray_serve.http.gate import ANSWERED_BY, FEEDBACK_PATH, REPORTS_PATH
from sonoray_serve.pictures.study_pictures import StudyPictures
from sonoray_serve.settings import AppArgs
from sonoray_serve.shapes.answers import ChatCompletion

FEEDBACK_FILE = "feedback.db"
"""SQLite's file in the workspace."""

ReadBody = Callable[[Request], Awaitable[bytes]]


def add_clinic(
    app: FastAPI, chat: Chat, args: AppArgs, pictures: StudyPictures, read_body: ReadBody
) -> None:
    """Add the paths.

    Args:
        app: the application.
        chat: answers the questions that reports come from.
        args: what the service was started with.
        pictures: decodes images.
        read_body: reads a body under the service's limit.
    """
    limits = args.config.limits
    book = FeedbackBook(feedback_place(args), limits=limits, pictures=pictures, server=chat.server)
    reports = Reports(args.config.dicomweb, limits=limits, server=chat.server)

    @app.post(FEEDBACK_PATH, responses=WORK_ERRORS, openapi_extra=body_of(FeedbackRequest))
    async def say(request: Request) -> FeedbackReceipt:
        """Keep what somebody says of an answer: a rating, a correction, what was asked."""
        async with Deadline.after(limits.deadline_s).scope():  # also for a body that drips in
            return await book.add(
                read_body(request), key_of(request), opens_studies=opens_studies(request)
            )

    @app.post(
        REPORTS_PATH,
        response_model=Report,
        responses=WORK_ERRORS,
        openapi_extra=body_of(ReportRequest),
    )
    async def report(request: Request) -> JSONResponse:
        """Report on a study as a DICOM Structured Report or a FHIR DiagnosticReport."""
        deadline = Deadline.after(limits.deadline_s)

        async def ask(body: bytes) -> ChatCompletion:
            answer = await chat.begin(
                _ready(body), deadline, key=key_of(request), opens_studies=opens_studies(request)
            )
            request.scope[ANSWERED_BY] = answer.sonoray.answered_by
            completion = await answer.complete()
            assert isinstance(completion, ChatCompletion)
            return completion

        made = await reports.make(read_body(request), ask, deadline.scope)
        return JSONResponse(made.model_dump(exclude_none=True))


def key_of(request: Request) -> str:
    """Digest of the key that a request came with; empty where the service has none."""
    key: str = request.scope.get("sonoray.key", "")
    return key


def opens_studies(request: Request) -> bool:
    """Whether a request's key may name studies of the DICOMweb server."""
    return bool(request.scope.get("sonoray.opens_studies", False))


def feedback_place(args: AppArgs) -> str:
    """Where feedback is kept: a path or a URL; empty where nowhere."""
    named = {"none": "", "sqlite": str(Path(args.workspace) / FEEDBACK_FILE)}
    return named.get(args.config.feedback, args.config.feedback)


async def _ready(body: bytes) -> bytes:
    return body
