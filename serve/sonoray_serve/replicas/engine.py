"""The engine deployment: an encoded study and a conversation in, an answer piece by piece out.

Each answer is decoded by a thread of its own and handed to the event loop through a queue, so a
slow decoder never blocks health checks or other answers. A semaphore bounds the threads: a slot is
free again when its thread has really ended, not already when its client has gone. Closing the
iterator (Ray Serve does it when the client disconnects) stops the decoder before its next token.

`generate` is the seam where continuous batching comes in: what lies in front of it speaks only
`Started`, `Piece`, `Finished`.
"""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sonoray_serve.messages import (
    EncodedStudy,
    Event,
    Failed,
    Finished,
    ModelCard,
    Piece,
    Sampling,
    Started,
)
from sonoray_serve.problems import InternalError, Problem, contained
from sonoray_serve.replicas.loading import ModelSource, load_model

if TYPE_CHECKING:
    from llava_ultra.export.assistant import VisualStudy

logger = logging.getLogger(__name__)

End = Finished | Failed | InternalError
"""What is always the last to come out of a decoder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineLoad:
    """The state of one engine replica's slots."""

    num_active: int
    """Answers in decoding now."""
    num_ended: int
    """Answers whose decoding has ended, in any way, since the replica started."""
    num_cancelled: int
    """Those of them whose client had gone before the end."""


class Engine:
    """Owns the language model."""

    def __init__(self, source: ModelSource, *, num_slots: int) -> None:
        self._model = load_model(source)
        self._num_slots = num_slots
        self._slots = asyncio.Semaphore(num_slots)
        self._pool = ThreadPoolExecutor(num_slots, thread_name_prefix="decode")
        self._num_active = 0
        self._num_ended = 0
        self._num_cancelled = 0

    async def describe(self) -> ModelCard:
        """What the ingress needs to know of the model."""
        return self._model.card

    async def load(self) -> EngineLoad:
        """What the engine does now and has done."""
        return EngineLoad(
            num_active=self._num_active,
            num_ended=self._num_ended,
            num_cancelled=self._num_cancelled,
        )

    async def generate(
        self, study: EncodedStudy, messages: Sequence[dict[str, str]], sampling: Sampling
    ) -> AsyncGenerator[Event, None]:
        """Answer the last of `messages` about the study.

        Yields:
            One `Started`, any number of `Piece`, one `Finished`; or one `Failed` in place of what
            would have come.

        Raises:
            InternalError: the decoder failed; says where, never on what.
        """
        deadline = time.monotonic() + sampling.timeout_s
        await self._slots.acquire()
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Event | InternalError] = asyncio.Queue()
        stop = threading.Event()

        def should_stop() -> bool:
            return stop.is_set() or time.monotonic() >= deadline

        def decode() -> None:
            end: End = Failed(problem=Problem.INTERNAL)
            try:
                for event in self._answer(study, messages, sampling, should_stop):
                    if isinstance(event, Finished | Failed):
                        end = event
                    else:
                        loop.call_soon_threadsafe(queue.put_nowait, event)
            except InternalError as error:
                end = error
            # in this order: who has seen the end finds the slot free
            loop.call_soon_threadsafe(self._end_slot, stop.is_set())
            loop.call_soon_threadsafe(queue.put_nowait, end)

        self._num_active += 1
        self._pool.submit(decode)
        try:
            async for event in _joined(queue):
                yield event
        finally:
            stop.set()

    def _end_slot(self, cancelled: bool) -> None:
        self._num_active -= 1
        self._num_ended += 1
        self._num_cancelled += cancelled
        self._slots.release()

    def _answer(
        self,
        study: EncodedStudy,
        messages: Sequence[dict[str, str]],
        sampling: Sampling,
        should_stop: Callable[[], bool],
    ) -> Iterator[Event]:
        """Decode, in the thread of a slot."""
        from llava_ultra.language.chat import ConversationError

        with contained(logger):
            assistant = self._model.assistant
            if study.digest != self._model.digest:  # a rolling update is on its way
                yield Failed(problem=Problem.UNAVAILABLE)
                return
            visual = _to_visual(study)
            try:
                prompt = assistant.prepare(visual, messages)
            except ConversationError as error:
                yield Failed(problem=Problem.CONVERSATION_NOT_ACCEPTED, detail=str(error))
                return
            except ValueError:  # the model's word for a conversation that it cannot take
                context = assistant.context_length
                yield Failed(problem=Problem.CONTEXT_LENGTH_EXCEEDED, limit=context)
                return
            yield Started(
                num_prompt_tokens=prompt.num_prompt_tokens,
                scores=tuple(prompt.scores),
                selected=tuple(prompt.selected),
                digest=self._model.digest,
            )
            limit = min(sampling.max_tokens, assistant.context_length - prompt.num_prompt_tokens)
            meter = _Meter(should_stop)
            texts = assistant.stream(
                prompt,
                max_tokens=limit,
                temperature=sampling.temperature,
                seed=sampling.seed,
                stop=sampling.stop,
                should_stop=meter,
            )
            for text in texts if sampling.stream else ("".join(texts),):
                yield Piece(text=text)
            yield meter.end(limit)


class _Meter:
    """Counts the decoder's tokens while it asks, after each one, whether to go on.

    It is not asked after a token that ends the answer by itself, so an answer of n questions below
    the limit had n + 1 tokens.
    """

    def __init__(self, should_stop: Callable[[], bool]) -> None:
        self._should_stop = should_stop
        self._num_asked = 0
        self._stopped = False

    def __call__(self) -> bool:
        self._num_asked += 1
        self._stopped = self._should_stop()
        return self._stopped

    def end(self, limit: int) -> Finished | Failed:
        """How the answer ended, where `limit` tokens were allowed."""
        if self._num_asked >= limit:
            return Finished(reason="length", num_tokens=limit)
        if self._stopped:
            return Failed(problem=Problem.DEADLINE)
        return Finished(reason="stop", num_tokens=self._num_asked + 1)


def _to_visual(study: EncodedStudy) -> "VisualStudy":
    """Copy the arrays into tensors: what arrives from Ray's object store is read-only."""
    import torch

    from llava_ultra.export.assistant import VisualStudy

    return VisualStudy(
        tokens=torch.tensor(study.tokens), feature_scores=torch.tensor(study.feature_scores)
    )


async def _joined(queue: "asyncio.Queue[Event | InternalError]") -> AsyncIterator[Event]:
    """Yield a decoder's events up to the end; pieces that wait together become one."""
    while True:
        item = await queue.get()
        text = ""
        while isinstance(item, Piece) and not queue.empty():
            text += item.text
            item = queue.get_nowait()
        if isinstance(item, Piece):
            yield Piece(text=text + item.text)
            continue
        if text:
            yield Piece(text=text)
        if isinstance(item, InternalError):
            raise item
        yield item
        if isinstance(item, Finished | Failed):
            return
