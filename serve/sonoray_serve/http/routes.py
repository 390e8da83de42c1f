"""The HTTP application: which path does what, and what its OpenAPI page says of it.

Bodies are read here piece by piece under the byte limit instead of by FastAPI, which would take any
size; the page describes them all the same. Every path needs a key but those of `gate.OPEN_PATHS`
and the files of the page at `/`.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from sonoray_serve.http.clinic_routes import add_clinic, key_of, opens_studies
from sonoray_serve.http.deadline import Deadline
from sonoray_serve.http.description import STREAM, WORK_ERRORS, body_of, describe_api, may_answer
from sonoray_serve.http.flow import Chat
from sonoray_serve.http.gate import (
    ANSWERED_BY,
    CHAT_PATH,
    HEALTH_PATH,
    OPEN_PATHS,
    RECOGNIZE_PATH,
    WORK_PATHS,
    Gate,
    House,
    Pace,
    to_response,
)
from sonoray_serve.http.recognition import Recognition, Recognitions, RecognizeRequest
from sonoray_serve.http.reply import Answer
from sonoray_serve.http.request_counts import IngressMeters
from sonoray_serve.keys.audit_log import AuditLog
from sonoray_serve.keys.key_folder import KeyFolder
from sonoray_serve.keys.key_limits import KeyLimits
from sonoray_serve.messages import ModelCard
from sonoray_serve.pictures.study_pictures import StudyPictures
from sonoray_serve.playground import page
from sonoray_serve.problems import ApiError, Problem
from sonoray_serve.settings import AppArgs, Limits, ServeConfig
from sonoray_serve.shapes import answers, api
from sonoray_serve.shapes.pages import docs_page

READY_TIMEOUT_S = 5.0
"""For the other deployments to say that they are there."""

PATHS = (
    *sorted(WORK_PATHS),
    *("/", "/v1/models", HEALTH_PATH, "/health", "/readyz", "/metrics", "/openapi.json", "/docs"),
)
"""Paths that `/metrics` tells apart."""


class EventStream(StreamingResponse):
    """A streamed answer that frees its engine slot however it ends."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._chunks = answer.stream()
        super().__init__(
            self._chunks, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"}
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events; close the answer also where the client left before the first."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._chunks.aclose()
            await self._answer.events.aclose()


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Read a body, refusing it as soon as it is known to be too large.

    Raises:
        ApiError: 413, by Content-Length or by what really arrives.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise ApiError(Problem.BODY_TOO_LARGE, limit=max_bytes)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise ApiError(Problem.BODY_TOO_LARGE, limit=max_bytes)
    return bytes(body)


def create_api(
    chat: Chat,
    args: AppArgs,
    recognitions: Recognitions | None = None,
    house: House | None = None,
    pictures: StudyPictures | None = None,
) -> FastAPI:
    """Make the HTTP application.

    Args:
        chat: answers questions.
        args: what the service was started with.
        recognitions: recognises classes; None where the models do not.
        house: is told how many requests are in work, and says whether more are let in.
        pictures: decodes images.
    """
    limits = args.config.limits
    app = FastAPI(
        title="SonoRay",
        version=version("sonoray"),
        description="Questions about ultrasound studies, in OpenAI's shapes. "
        "For research only. Not a medical device.",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    meters = IngressMeters(PATHS)
    app.add_middleware(
        Gate,
        key_digests=None if args.insecure_local else _key_digests(args),
        key_terms=args.key_terms,
        audit=AuditLog(Path(args.config.audit_log)) if args.config.audit_log else None,
        max_requests=limits.max_requests,
        pace=Pace(least_s=limits.retry_after_s, most_s=limits.deadline_s),
        meters=meters,
        house=house,
        key_limits=KeyLimits(per_minute=limits.key_per_minute, at_once=limits.key_at_once),
        open_paths=OPEN_PATHS | (page.FILES.keys() if args.config.playground else set()),
    )

    @app.exception_handler(ApiError)
    async def refuse(_request: Request, error: ApiError) -> Response:
        return to_response(error)

    @app.exception_handler(HTTPException)
    async def refuse_route(_request: Request, error: HTTPException) -> Response:
        wrong_method = error.status_code == Problem.METHOD_NOT_ALLOWED.status
        problem = Problem.METHOD_NOT_ALLOWED if wrong_method else Problem.NOT_FOUND
        return to_response(ApiError(problem), error.headers if wrong_method else None)

    if args.config.playground:
        _add_playground(app)
    _add_pages(app, meters, chat)
    _add_health(app, chat)
    _add_models(app, chat)
    _add_work(app, chat, limits)
    _add_recognition(app, recognitions, args.config)
    add_clinic(
        app,
        chat,
        args,
        pictures or StudyPictures(limits),
        lambda request: read_body(request, limits.max_body_bytes),
    )
    return app


def _key_digests(args: AppArgs) -> Iterable[str]:
    """The digests of the start, or those of a folder as it changes."""
    if args.api_key_digests_folder:
        return KeyFolder(Path(args.api_key_digests_folder))
    return args.api_key_digests


def _add_playground(app: FastAPI) -> None:
    """The page at `/`, which is for everybody: it can do nothing without a key."""

    def answer(name: str, kind: str) -> Callable[[], Response]:
        return lambda: Response(page.read_file(name), media_type=kind, headers=page.HEADERS)

    for path, (name, kind) in page.FILES.items():
        app.get(path, include_in_schema=False)(answer(name, kind))


def _add_pages(app: FastAPI, meters: IngressMeters, chat: Chat) -> None:
    """What describes the service, and counts."""
    description: dict[str, Any] = {}

    def describe() -> dict[str, Any]:
        if not description:
            description.update(describe_api(app))
        return description

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        return JSONResponse(describe())

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(docs_page(describe()))

    @app.get("/metrics", response_class=PlainTextResponse, responses=may_answer(401, 403))
    async def metrics(request: Request) -> Response:
        """Count what this ingress replica has answered, in Prometheus' text format."""
        text = meters.text(request.scope["sonoray.num_requests"], chat.shadow_counts)
        return PlainTextResponse(text)


def _add_health(app: FastAPI, chat: Chat) -> None:
    """Whether the service is there, and whether it can answer."""

    async def health() -> answers.Status:
        """Tell that the ingress is up."""
        return answers.Status()

    app.get(HEALTH_PATH)(health)
    app.get("/health", operation_id="health_as_others_call_it")(health)

    @app.get("/readyz", responses=may_answer(503))
    async def ready() -> answers.Status:
        """Tell whether the model can answer."""
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                is_ready = await chat.is_ready()
        except (TimeoutError, ApiError):
            is_ready = False
        if not is_ready:
            raise ApiError(Problem.UNAVAILABLE)
        return answers.Status()


def _add_models(app: FastAPI, chat: Chat) -> None:
    """What can be asked."""
    created = int(time.time())

    def told(name: str, card: ModelCard) -> answers.ModelObject:
        return answers.ModelObject(
            id=name, created=created, max_model_len=card.context_length, digest=card.digest
        )

    @app.get("/v1/models", responses=may_answer(401, 403))
    async def list_models() -> answers.ModelList:
        """List the names that a request may have as `model`."""
        models = [told(name, card) for name, card in chat.named.items()]
        return answers.ModelList(data=models, takes_study_uid=chat.server.is_there)

    @app.get("/v1/models/{model:path}", responses=may_answer(401, 403, 404))
    async def get_model(model: str) -> answers.ModelObject:
        """Tell whether a model is served."""
        card = chat.named.get(model)
        if card is None:
            raise ApiError(Problem.MODEL_NOT_FOUND, "model")
        return told(model, card)


def _add_work(app: FastAPI, chat: Chat, limits: Limits) -> None:
    """What needs the model."""

    async def answered(request: Request, *, is_chat: bool) -> Response:
        deadline = Deadline.after(limits.deadline_s)
        body = read_body(request, limits.max_body_bytes)
        answer = await chat.begin(
            body,
            deadline,
            is_chat=is_chat,
            key=key_of(request),
            opens_studies=opens_studies(request),
        )
        request.scope[ANSWERED_BY] = answer.sonoray.answered_by
        if answer.as_stream:
            return EventStream(answer)
        return JSONResponse((await answer.complete()).model_dump())

    @app.post(
        CHAT_PATH,
        response_model=answers.ChatCompletion,
        responses={200: {"content": STREAM}, **WORK_ERRORS},
        openapi_extra=body_of(api.ChatRequest),
    )
    async def complete_chat(request: Request) -> Response:
        """Answer a question about a study, with what was said before."""
        return await answered(request, is_chat=True)

    @app.post(
        "/v1/completions",
        response_model=answers.Completion,
        responses={200: {"content": STREAM}, **WORK_ERRORS},
        openapi_extra=body_of(api.CompletionRequest),
    )
    async def complete(request: Request) -> Response:
        """Answer a question without a study: for clients that know this path alone."""
        return await answered(request, is_chat=False)

    @app.post(
        "/v1/embeddings",
        response_model=answers.EmbeddingList,
        responses=WORK_ERRORS,
        openapi_extra=body_of(api.EmbeddingRequest),
    )
    async def embed(request: Request) -> Response:
        """Give a study's fused vector: of length 1, so that a dot product is the cosine."""
        deadline = Deadline.after(limits.deadline_s)
        found = await chat.embed(read_body(request, limits.max_body_bytes), deadline)
        return JSONResponse(found.model_dump(exclude_none=True))


def _add_recognition(app: FastAPI, recognitions: Recognitions | None, config: ServeConfig) -> None:
    """Which of some classes a study shows."""

    @app.post(
        RECOGNIZE_PATH,
        response_model=Recognition,
        responses=WORK_ERRORS,
        openapi_extra=body_of(RecognizeRequest),
    )
    async def recognize(request: Request) -> Response:
        """Hold a study against classes: a share of each, with a calibration its probability."""
        if recognitions is None:
            raise ApiError(Problem.NOT_FOUND)
        deadline = Deadline.after(config.limits.deadline_s)
        body = read_body(request, config.limits.max_body_bytes)
        found = await recognitions.answer(body, deadline, opens_studies=opens_studies(request))
        return JSONResponse(found.model_dump(exclude_none=True))
