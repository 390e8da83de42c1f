"""The HTTP side: OpenAI's chat endpoints on FastAPI, and the way to the other deployments.

It holds no model and imports no torch: 0.1 CPU is enough for it. Request bodies are read here
piece by piece under the byte limit instead of by FastAPI, which would take any size.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from llava_ultra.recognition.bank import ClassBank
from sonoray.images.decode import Pixels
from sonoray_serve.http import api
from sonoray_serve.http.flow import Answer, Chat, Deadline
from sonoray_serve.http.gate import (
    CHAT_PATH,
    HEALTH_PATH,
    RECOGNIZE_PATH,
    Gate,
    Pace,
    to_response,
)
from sonoray_serve.http.key_folder import KeyFolder
from sonoray_serve.http.recognition import Calibration, Recognitions
from sonoray_serve.messages import (
    ClassShares,
    EncodedStudy,
    Event,
    Failed,
    ModelCard,
    Sampling,
)
from sonoray_serve.problems import ApiError, Problem
from sonoray_serve.settings import AppArgs

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle


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


def create_api(chat: Chat, args: AppArgs, recognitions: Recognitions | None = None) -> FastAPI:
    """Make the HTTP application around a `Chat`, and around what recognises classes."""
    limits = args.config.limits
    created = int(time.time())
    app = FastAPI(title="SonoRay", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(
        Gate,
        key_digests=None if args.insecure_local else _key_digests(args),
        max_requests=limits.max_requests,
        pace=Pace(least_s=limits.retry_after_s, most_s=limits.deadline_s),
    )

    @app.exception_handler(ApiError)
    async def refuse(_request: Request, error: ApiError) -> Response:
        return to_response(error)

    @app.exception_handler(HTTPException)
    async def refuse_route(_request: Request, error: HTTPException) -> Response:
        wrong_method = error.status_code == Problem.METHOD_NOT_ALLOWED.status
        problem = Problem.METHOD_NOT_ALLOWED if wrong_method else Problem.NOT_FOUND
        return to_response(ApiError(problem))

    @app.get(HEALTH_PATH)
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models")
    async def list_models() -> api.ModelList:
        return api.ModelList(data=[api.ModelObject(id=args.model_name, created=created)])

    @app.get("/v1/models/{model:path}")
    async def get_model(model: str) -> api.ModelObject:
        if model != args.model_name:
            raise ApiError(Problem.MODEL_NOT_FOUND, "model")
        return api.ModelObject(id=args.model_name, created=created)

    @app.post(CHAT_PATH)
    async def complete_chat(request: Request) -> Response:
        deadline = Deadline.after(limits.deadline_s)
        answer = await chat.begin(read_body(request, limits.max_body_bytes), deadline)
        if answer.as_stream:
            return EventStream(answer)
        return JSONResponse((await answer.complete()).model_dump())

    @app.post(RECOGNIZE_PATH)
    async def recognize(request: Request) -> Response:
        if recognitions is None:
            raise ApiError(Problem.NOT_FOUND)
        deadline = Deadline.after(limits.deadline_s)
        found = await recognitions.answer(read_body(request, limits.max_body_bytes), deadline)
        return JSONResponse(found.model_dump(exclude_none=True))

    return app


def _key_digests(args: AppArgs) -> Iterable[str]:
    """The digests of the start, or those of a folder as it changes."""
    if args.api_key_digests_folder:
        return KeyFolder(Path(args.api_key_digests_folder))
    return args.api_key_digests


@contextmanager
def translated() -> Iterator[None]:
    """Turn Ray Serve's ways of failing into the API's.

    Raises:
        ApiError: 429 where a queue is full, 503 where no replica is there, 500 where one failed.
    """
    from ray.exceptions import RayActorError, RayTaskError, TaskCancelledError
    from ray.serve.exceptions import (
        BackPressureError,
        DeploymentUnavailableError,
        ReplicaUnavailableError,
    )

    try:
        yield
    except BackPressureError:
        raise ApiError(Problem.BUSY) from None
    except (
        DeploymentUnavailableError,
        ReplicaUnavailableError,
        RayActorError,
        TaskCancelledError,  # the replica was taken down under the request
    ):
        raise ApiError(Problem.UNAVAILABLE) from None
    except RayTaskError:  # the replica has logged where it failed
        raise ApiError(Problem.INTERNAL) from None


class RemoteVision:
    """The vision deployment behind a handle."""

    def __init__(self, handle: "DeploymentHandle[Any]") -> None:
        self._handle = handle

    async def encode(self, images: Sequence[Pixels]) -> EncodedStudy | Failed:
        """Encode one study; see `VisionPort`."""
        with translated():
            response = self._handle.encode.remote(list(images))
            try:
                study: EncodedStudy | Failed = await response
            except asyncio.CancelledError:
                response.cancel()  # type: ignore[no-untyped-call]
                raise
            return study


class RemoteEngine:
    """The engine deployment behind a handle."""

    def __init__(self, handle: "DeploymentHandle[Any]") -> None:
        self._handle = handle.options(stream=True)
        self._plain = handle

    async def generate(
        self, study: EncodedStudy, messages: Sequence[dict[str, str]], sampling: Sampling
    ) -> AsyncGenerator[Event, None]:
        """Answer a question; see `EnginePort`."""
        from ray.serve.handle import DeploymentResponseGenerator

        with translated():
            events = self._handle.generate.remote(study, messages, sampling)
            assert isinstance(events, DeploymentResponseGenerator)
            try:
                async for event in events:
                    yield event
            finally:
                events.cancel()  # type: ignore[no-untyped-call]

    async def recognize(self, study: EncodedStudy, bank: ClassBank) -> ClassShares | Failed:
        """Hold a study against classes; see `RecognizePort`."""
        with translated():
            response = self._plain.recognize.remote(study, bank)
            try:
                found: ClassShares | Failed = await response
            except asyncio.CancelledError:
                response.cancel()  # type: ignore[no-untyped-call]
                raise
            return found


class Ingress:
    """The deployment: makes the HTTP application once the engine can say what it serves."""

    def __init__(
        self,
        args: AppArgs,
        vision: "DeploymentHandle[Any]",
        engine: "DeploymentHandle[Any]",
    ) -> None:
        self._args = args
        self._vision = vision
        self._engine = engine

    async def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Ray Serve when the replica starts."""
        card: ModelCard = await self._engine.describe.remote()
        vision, engine = RemoteVision(self._vision), RemoteEngine(self._engine)
        common: dict[str, Any] = {
            "vision": vision,
            "engine": engine,
            "card": card,
            "model_name": self._args.model_name,
            "limits": self._args.config.limits,
        }
        calibration = Calibration.read(self._args.config.calibration, card)
        recognitions = Recognitions(**common, calibration=calibration)
        return create_api(Chat(**common), self._args, recognitions)
