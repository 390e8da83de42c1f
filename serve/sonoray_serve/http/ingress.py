"""The ingress deployment: the HTTP application, and the way to the other deployments.

It holds no model and imports no torch: 0.1 CPU is enough for it.

Calls to the other two go from this event loop over gRPC, by value: Ray Serve's other way, an actor
task for each call and an object for each event of a stream, took most of the time that the service
added to an answer.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI

from llava_ultra.recognition.bank import ClassBank
from sonoray.images.decode import Pixels
from sonoray_serve.http.clinic_routes import feedback_place
from sonoray_serve.http.flow import Chat
from sonoray_serve.http.gate import House
from sonoray_serve.http.recognition import Calibration, Recognitions
from sonoray_serve.http.routes import create_api
from sonoray_serve.intake.encoder import StudyEncoder
from sonoray_serve.intake.study_server import StudyServer
from sonoray_serve.messages import (
    ClassShares,
    EncodedStudy,
    Event,
    Failed,
    ModelCard,
    Sampling,
    Study,
)
from sonoray_serve.pictures.study_pictures import StudyPictures
from sonoray_serve.problems import ApiError, Problem
from sonoray_serve.settings import AppArgs, Roster
from sonoray_serve.shadow.candidate import Shadow
from sonoray_serve.shadow.comparisons import Comparisons

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle


def by_value(handle: "DeploymentHandle[Any]", *, stream: bool = False) -> "DeploymentHandle[Any]":
    """A handle whose calls go over gRPC."""
    return handle.options(_by_reference=False, stream=stream)


ROSTER_TIMEOUT_S = 60.0
"""For the engine to read the models that have names; a model of the same decoder takes a second."""


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


async def _result(response: Any) -> Any:  # noqa: ANN401 - a DeploymentResponse, and what it gives
    """Await a call; where nobody waits any more, take it back."""
    try:
        return await response
    except asyncio.CancelledError:
        response.cancel()
        raise


class RemoteVision:
    """The vision deployment behind a handle."""

    def __init__(self, handle: "DeploymentHandle[Any]") -> None:
        self._handle = by_value(handle)

    async def encode(self, images: Sequence[Pixels], digest: str) -> EncodedStudy | Failed:
        """Encode one study; see `VisionPort`."""
        with translated():
            study: EncodedStudy | Failed = await _result(
                self._handle.encode.remote(list(images), digest)
            )
            return study

    async def ready(self) -> str:
        """See `VisionPort`."""
        with translated():
            digest: str = await self._handle.ready.remote()
            return digest


class RemoteEngine:
    """The engine deployment behind a handle."""

    def __init__(self, handle: "DeploymentHandle[Any]") -> None:
        self._whole = by_value(handle)
        self._handle = by_value(handle, stream=True)

    async def generate(
        self, study: Study, messages: Sequence[dict[str, str]], sampling: Sampling
    ) -> AsyncGenerator[Event, None]:
        """Answer a question; see `EnginePort`."""
        from ray.serve.handle import DeploymentResponseGenerator

        if not sampling.stream:  # one message there and one back
            for event in await self._answer(study, messages, sampling):
                yield event
            return
        with translated():
            batches = self._handle.batches.remote(study, messages, sampling)
            assert isinstance(batches, DeploymentResponseGenerator)
            try:
                async for events in batches:
                    for event in events:
                        yield event
            finally:
                batches.cancel()  # type: ignore[no-untyped-call]

    async def _answer(
        self, study: Study, messages: Sequence[dict[str, str]], sampling: Sampling
    ) -> tuple[Event, ...]:
        with translated():
            events: tuple[Event, ...] = await _result(
                self._whole.answer.remote(study, messages, sampling)
            )
            return events

    async def recognize(self, study: EncodedStudy, bank: ClassBank) -> ClassShares | Failed:
        """Hold a study against classes; see `RecognizePort`."""
        with translated():
            found: ClassShares | Failed = await _result(self._whole.recognize.remote(study, bank))
            return found

    async def ready(self) -> str:
        """See `EnginePort`."""
        with translated():
            digest: str = await self._whole.ready.remote()
            return digest


class Ingress:
    """The deployment: makes the HTTP application once the engine can say what it serves."""

    def __init__(
        self,
        args: AppArgs,
        vision: "DeploymentHandle[Any]",
        engine: "DeploymentHandle[Any]",
    ) -> None:
        for handle in (vision, engine):
            if not handle.is_initialized:  # its router runs in the requests' own event loop
                handle._init(_run_router_in_separate_loop=False)  # type: ignore[no-untyped-call]
        self._args = args
        self._house = House()
        self._engine = engine
        self._remote_vision, self._remote_engine = RemoteVision(vision), RemoteEngine(engine)
        limits = args.config.limits
        self._pictures = StudyPictures(limits, args.reading)
        self._encoder = StudyEncoder(self._remote_vision, limits=limits)
        self._server = StudyServer(args.config.dicomweb, limits=limits, reading=args.reading)
        self._shadow: Shadow | None = None
        if args.config.shadow.name:
            self._shadow = Shadow(
                vision=self._remote_vision,
                engine=self._remote_engine,
                settings=args.config.shadow,
                record=Comparisons(feedback_place(args)).add,
                timeout_s=limits.deadline_s,
            )
        self._chat = Chat(
            vision=self._remote_vision,
            engine=self._remote_engine,
            models={},
            limits=limits,
            pictures=self._pictures,
            shadow=self._shadow,
            server=self._server,
            encoder=self._encoder,
            student_budget=args.config.student_budget,
        )

    async def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Ray Serve when the replica starts."""
        cards: dict[str, ModelCard] = await self._engine.cards.remote()
        digest: str = await self._engine.ready.remote()
        if card := cards.get(digest):  # else other models have names, and `reconfigure` follows
            self._chat.offer({self._args.model_name: card})
        config = self._args.config
        only = cards[digest] if config.max_models == 1 else None
        recognitions = Recognitions(
            encoder=self._encoder,
            engine=self._remote_engine,
            models=lambda: self._chat.models,
            limits=config.limits,
            calibration=Calibration.read(config.calibration, only),
            pictures=self._pictures,
            server=self._server,
        )
        return create_api(self._chat, self._args, recognitions, self._house, self._pictures)

    async def close(self) -> int:
        """Let no further request in, and tell how many are in work; may be called again."""
        self._house.is_closing = True
        return self._house.num_requests

    async def reconfigure(self, config: dict[str, Any]) -> None:
        """Called by Ray Serve with a `Roster`: offer its names once the engine has the models.

        A name whose model the engine has refused stays with the model that it had, or is not
        offered.
        """
        names = Roster.model_validate(config).names
        if not names:
            return
        deadline = time.monotonic() + ROSTER_TIMEOUT_S
        while True:
            cards: dict[str, ModelCard] = await self._engine.cards.remote()
            if cards.keys() >= set(names.values()) or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.2)
        offered = self._chat.models
        found = {name: cards.get(digest) or offered.get(name) for name, digest in names.items()}
        self._chat.offer({name: card for name, card in found.items() if card is not None})
        if self._shadow is not None:
            candidate = f"{self._args.model_name}:{self._args.config.shadow.name}"
            self._shadow.offer(self._chat.models.get(candidate))
