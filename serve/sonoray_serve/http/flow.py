"""One chat request from its bytes to its answer, whatever carries vision and engine.

The deployment gives it handles to the other two deployments; a test may give it the classes
themselves. Every wait is under the request's one deadline, and the answer's first event is awaited
before the HTTP answer starts, so that a study or a prompt that is refused gets its proper status
also when the client asked for a stream.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sonoray_serve.http import api
from sonoray_serve.http.asked_first import ask_first, is_report, with_answers
from sonoray_serve.http.question import Question, decode_study, read_question
from sonoray_serve.messages import (
    EncodedStudy,
    EnginePort,
    Event,
    Failed,
    Finished,
    ModelCard,
    Piece,
    Sampling,
    Started,
    VisionPort,
)
from sonoray_serve.problems import ApiError, InternalError, Problem, contained
from sonoray_serve.settings import Limits

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Deadline:
    """When a request's time is over, on the event loop's clock."""

    at: float
    limit_s: float

    @classmethod
    def after(cls, limit_s: float) -> "Deadline":
        """The deadline of a request that begins now."""
        return cls(at=asyncio.get_running_loop().time() + limit_s, limit_s=limit_s)

    @property
    def left_s(self) -> float:
        """Seconds until then, never below 0."""
        return max(0.0, self.at - asyncio.get_running_loop().time())

    @asynccontextmanager
    async def scope(self) -> AsyncIterator[None]:
        """Cancel what runs inside when the time is over.

        Raises:
            ApiError: 504.
        """
        try:
            async with asyncio.timeout_at(self.at):
                yield
        except TimeoutError:
            raise ApiError(Problem.DEADLINE, limit=self.limit_s) from None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer that has begun; it holds nothing of the request's body."""

    as_stream: bool
    """Whether the client asked for a stream."""
    include_usage: bool
    """Whether that stream ends with the token counts."""
    sonoray: api.SonoRay
    num_prompt_tokens: int
    events: AsyncGenerator[Event, None]
    deadline: Deadline
    id: str
    created: int

    async def rest(self) -> AsyncIterator[Piece | Finished]:
        """The pieces and the end.

        Raises:
            ApiError: the answer broke off.
        """
        while True:
            async with self.deadline.scope():
                event = await anext(self.events)
            if isinstance(event, Failed):
                raise ApiError(event.problem, limit=event.limit or self.deadline.limit_s)
            assert isinstance(event, Piece | Finished)
            yield event
            if isinstance(event, Finished):
                return

    def usage(self, end: Finished) -> api.Usage:
        """The token counts."""
        return api.Usage(
            prompt_tokens=self.num_prompt_tokens,
            completion_tokens=end.num_tokens,
            total_tokens=self.num_prompt_tokens + end.num_tokens,
        )

    async def complete(self) -> api.ChatCompletion:
        """The whole answer.

        Raises:
            ApiError: it broke off.
        """
        text = ""
        try:
            async for event in self.rest():
                if isinstance(event, Finished):
                    end = event
                else:
                    text += event.text
        finally:
            await self.events.aclose()
        message = api.AnswerMessage(content=text)
        return api.ChatCompletion(
            id=self.id,
            created=self.created,
            model=self.sonoray.model,
            choices=[api.Choice(message=message, finish_reason=end.reason)],
            usage=self.usage(end),
            sonoray=self.sonoray,
        )

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """The answer as server-sent events; an error ends it as one event and without [DONE]."""
        try:
            with contained(logger):
                yield self._chunk(api.Delta(role="assistant", content=""))
                async for event in self.rest():
                    if isinstance(event, Piece):
                        yield self._chunk(api.Delta(content=event.text))
                    else:
                        for last in self._last_chunks(event):
                            yield last
        except ApiError as error:
            yield api.to_event(error.body())
        except InternalError:
            yield api.to_event(ApiError(Problem.INTERNAL).body())
        finally:
            await self.events.aclose()

    def _last_chunks(self, end: Finished) -> list[bytes]:
        if not self.include_usage:
            return [
                self._chunk(api.Delta(), finish_reason=end.reason, sonoray=self.sonoray),
                api.LAST_EVENT,
            ]
        counts = api.ChatChunk(
            id=self.id,
            created=self.created,
            model=self.sonoray.model,
            choices=[],
            usage=self.usage(end),
            sonoray=self.sonoray,
        )
        return [
            self._chunk(api.Delta(), finish_reason=end.reason),
            counts.to_event(),
            api.LAST_EVENT,
        ]

    def _chunk(
        self,
        delta: api.Delta,
        finish_reason: api.FinishReason | None = None,
        sonoray: api.SonoRay | None = None,
    ) -> bytes:
        return api.ChatChunk(
            id=self.id,
            created=self.created,
            model=self.sonoray.model,
            choices=[api.ChunkChoice(delta=delta, finish_reason=finish_reason)],
            sonoray=sonoray,
        ).to_event()


class Chat:
    """Answers requests about studies with one model."""

    def __init__(
        self,
        *,
        vision: VisionPort,
        engine: EnginePort,
        card: ModelCard,
        model_name: str,
        limits: Limits,
    ) -> None:
        self._vision = vision
        self._engine = engine
        self._card = card
        self._model_name = model_name
        self._limits = limits
        self._studies = asyncio.Semaphore(limits.studies_in_memory)

    async def begin(self, body: Awaitable[bytes], deadline: Deadline) -> Answer:
        """Take a request as far as the answer's first event.

        Args:
            body: the body as it arrives. No caller holds it, so its megabytes are free again
                before the request waits for the engine.
            deadline: when the request's time is over.

        Raises:
            ApiError: it is refused, or could not be served in time.
        """
        async with deadline.scope():
            question, study, is_transparent = await self._prepare(body)
            messages, asked = question.messages, []
            if is_report(messages, self._card.protocol):
                asked = await ask_first(
                    self._engine, study, messages, self._card.protocol, deadline.left_s
                )
                messages = with_answers(messages, asked)
            sampling = Sampling(
                max_tokens=question.max_tokens,
                temperature=question.temperature,
                top_p=question.top_p,
                seed=question.seed,
                stop=question.stop,
                timeout_s=deadline.left_s,
                stream=question.stream,
            )
            events = self._engine.generate(study, messages, sampling)
            started = await anext(events)
        if isinstance(started, Failed):
            raise ApiError(started.problem, "messages", started.limit, started.detail)
        assert isinstance(started, Started)
        return Answer(
            as_stream=question.stream,
            include_usage=question.include_usage,
            sonoray=self._describe(started, is_transparent, asked),
            num_prompt_tokens=started.num_prompt_tokens,
            events=events,
            deadline=deadline,
            id=f"chatcmpl-{uuid.uuid4().hex}",
            created=int(time.time()),
        )

    async def _prepare(
        self, body: Awaitable[bytes]
    ) -> tuple[Question, EncodedStudy, Sequence[bool]]:
        question, images = await asyncio.to_thread(self._read, await body)
        return question, *await self._encode(images)

    def _read(self, body: bytes) -> tuple[Question, tuple[bytes, ...]]:
        """Parse and check; off the event loop, since a body may be tens of megabytes."""
        request = api.parse_chat_request(body, self._limits.max_marks)
        if request.model != self._model_name:
            raise ApiError(Problem.MODEL_NOT_FOUND, "model")
        return read_question(request, self._limits, self._card)

    async def _encode(self, images: Sequence[bytes]) -> tuple[EncodedStudy, Sequence[bool]]:
        """Encode the study, and tell which of its images have transparent pixels."""
        async with self._studies:  # bounds the memory that pixels take
            decoded = await asyncio.to_thread(decode_study, images, self._limits)
            is_transparent = [each.is_transparent for each in decoded]
            study = await self._vision.encode([each.pixels for each in decoded])
            del decoded
        if isinstance(study, Failed):
            raise ApiError(study.problem, "messages", study.limit)
        return study, is_transparent

    def _describe(
        self,
        started: Started,
        is_transparent: Sequence[bool],
        asked: Sequence[tuple[str, str]],
    ) -> api.SonoRay:
        return api.SonoRay(
            images=[
                api.ImageUse(
                    index=index,
                    score=score,
                    selected=index in started.selected,
                    transparent=is_transparent[index],
                )
                for index, score in enumerate(started.scores)
            ],
            asked_first=[api.Asked(question=question, answer=answer) for question, answer in asked],
            notice=self._card.notice,
            model=self._model_name,
            digest=started.digest,
        )
