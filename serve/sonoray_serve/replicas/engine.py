"""The engine deployment: an encoded study and a conversation in, an answer piece by piece out.

All answers are decoded together by one thread (`sonoray_serve.schedule`) and handed to the event
loop through a queue each, so a slow decoder never blocks health checks. Closing the iterator (Ray
Serve does it when the client disconnects) frees the answer's room before the next step. Events
that come together leave together (`batches`): each trip between processes costs about as much as a
token of a small decoder.

A study is kept under its name, so that a second question about it is a name and a text: no pixel
is decoded, vision is not asked, and the prompt's beginning is in the prefix store.

Only the language half of the model is loaded. Of one model the adapter is merged; of several each
row of a batch has its own model's. Another engine, such as vLLM with `prompt_embeds`, takes the
place of this class and nothing else (`messages.EnginePort`).
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llava_ultra.recognition.bank import ClassBank
from sonoray.errors import ServingError, SonoError
from sonoray_serve.messages import (
    ClassShares,
    EncodedStudy,
    Event,
    Failed,
    Finished,
    Forgotten,
    ModelCard,
    Sampling,
    Started,
    Study,
)
from sonoray_serve.problems import InternalError, Problem
from sonoray_serve.replicas.class_reader import ClassReader
from sonoray_serve.replicas.hosting import load_hosted, read_hosted
from sonoray_serve.replicas.kept import Kept
from sonoray_serve.replicas.loading import ModelSource, describe, load_language_half
from sonoray_serve.schedule.autoscale import WORK
from sonoray_serve.schedule.meters import Counts, Meters, show_model
from sonoray_serve.schedule.scheduler import Scheduler
from sonoray_serve.schedule.ticket import Ticket
from sonoray_serve.schedule.worker import Worker
from sonoray_serve.settings import Batching, Roster

if TYPE_CHECKING:
    from llava_ultra.batching.adapters import AdapterBank
    from llava_ultra.export.hosted import HostedModels

logger = logging.getLogger(__name__)


class Engine:
    """Owns the language model."""

    def __init__(self, source: ModelSource, batching: Batching, *, max_models: int = 1) -> None:
        """Load the model's language half and take the memory for the answers.

        Args:
            source: the first model.
            batching: how answers are decoded together.
            max_models: with more than 1, others can come (`reconfigure`), and no adapter is merged.

        Raises:
            CheckpointError: as `load_language_half` does.
            ServingError: the decoder cannot be served, or not with this memory.
        """
        from llava_ultra.batching.prefix import PrefixStore
        from llava_ultra.batching.ragged import RaggedDecoder
        from llava_ultra.batching.running import Batch
        from llava_ultra.language.chat import end_id

        self._source = source
        self._hosted: HostedModels | None = None
        adapters: AdapterBank | None = None
        if max_models > 1:
            self._hosted, self._digest = load_hosted(source)
            answerer, adapters = self._hosted.first.answerer, self._hosted.bank
            first = self._hosted.first
            adapters.add(self._digest, first.adapter, first.lora)
        else:
            answerer, self._digest = load_language_half(source)
        self._cards = {self._digest: describe(answerer, self._digest)}
        try:
            decoder = RaggedDecoder(
                answerer.model,
                adapters=adapters,
                max_bytes=batching.key_value_bytes,
                max_rows=batching.max_answers,
            )
        except ValueError as error:
            raise ServingError(f"serve.batching does not fit {source.model!r}: {error}") from None
        self._adapters = adapters
        self._classes = {self._digest: ClassReader(answerer, self._digest)}
        prefixes = PrefixStore(max_bytes=batching.prefix_bytes)
        self._scheduler = Scheduler(
            answerer,
            Batch(decoder, prefixes, end_id=end_id(answerer.tokenizer)),
            adapters=adapters,
            digest=self._digest,
            prompt_tokens=batching.prompt_tokens_per_step,
            stream_interval_s=batching.stream_interval_s,
        )
        self._worker = Worker(self._scheduler, show=Meters().show)
        self._studies: Kept[EncodedStudy] = Kept(max_bytes=batching.study_bytes)
        self._tell_models = {self._digest: show_model(self._digest)}

    async def check_health(self) -> None:
        """Called by Ray Serve every few seconds, which replaces a replica that raises three times.

        Raises:
            ServingError: the decoder gives nothing any more, as after an error of the GPU.
        """
        for tell in self._tell_models.values():
            tell()
        if self._worker.is_lost:
            raise ServingError("the decoder fails at every step; this replica has to be replaced")

    async def reconfigure(self, config: dict[str, Any]) -> None:
        """Called by Ray Serve with a `Roster`: take in what is new, let go what is no longer named.

        A model that is refused is logged and left out: it must not bring down those that answer.
        """
        wanted = {model.digest: model.model for model in Roster.model_validate(config).models}
        if self._hosted is None or not wanted:
            return
        for digest, model in wanted.items():
            if digest in self._cards:
                continue
            source = replace(self._source, model=model, digest=digest)
            try:
                hosted = await asyncio.to_thread(read_hosted, source, self._hosted)
                await asyncio.wrap_future(self._worker.admit(digest, hosted))
            except (SonoError, ValueError) as error:
                logger.error("model %s is left out: %s", digest[:16], error)
                continue
            self._cards[digest] = describe(hosted.answerer, digest)
            self._classes[digest] = ClassReader(hosted.answerer, digest)
            self._tell_models[digest] = show_model(digest)
        for digest in self._cards.keys() - wanted.keys():
            self._worker.dismiss(digest)
            del self._cards[digest], self._classes[digest]
            del self._tell_models[digest]

    async def cards(self) -> dict[str, ModelCard]:
        """What the ingress needs to know of each model, by digest."""
        return dict(self._cards)

    async def ready(self) -> str:
        """See `EnginePort`."""
        return self._digest

    async def load(self) -> Counts:
        """What the engine does now and has done."""
        return self._scheduler.counts

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Ray Serve; see `schedule.autoscale`."""
        return {WORK: self._scheduler.counts.work}

    async def recognize(self, study: EncodedStudy, bank: ClassBank) -> ClassShares | Failed:
        """Hold a study against classes; see `RecognizePort`.

        Raises:
            InternalError: the decoder failed; says where, never on what.
        """
        reader = self._classes.get(study.digest)
        if reader is None:  # its model has left, or is not here yet
            return Failed(problem=Problem.UNAVAILABLE)

        def score() -> ClassShares | Failed:
            if self._adapters is not None:
                self._adapters.choose_all(study.digest)
            return reader.score(study, bank)

        return await asyncio.wrap_future(self._worker.run(score))

    async def generate(
        self, study: Study, messages: Sequence[dict[str, str]], sampling: Sampling
    ) -> AsyncGenerator[Event, None]:
        """Answer the last of `messages` about the study.

        Yields:
            One `Started`, any number of `Piece` or one `Weighed`, one `Finished` of each choice; or
            one `Failed` in place of what would have come; or one `Forgotten`.

        Raises:
            InternalError: the decoder failed; says where, never on what.
        """
        async with aclosing(self.batches(study, messages, sampling)) as batches:
            async for events in batches:
                for event in events:
                    yield event

    async def batches(
        self, study: Study, messages: Sequence[dict[str, str]], sampling: Sampling
    ) -> AsyncGenerator[tuple[Event, ...], None]:
        """As `generate`, with those events together that need not leave alone.

        The start goes with the first piece, and an answer that is not streamed leaves as a whole.

        Raises:
            InternalError: as `generate`.
        """
        found = self._find(study)
        if found is None:
            yield (Forgotten(),)
            return
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Event | InternalError] = asyncio.Queue()

        def deliver(event: Event | InternalError) -> None:
            try:
                loop.call_soon_threadsafe(queue.put_nowait, event)
            except RuntimeError:  # the loop is closed: nobody is there any more
                cancel()

        def cancel() -> None:
            for ticket in tickets:
                self._worker.cancel(ticket)

        tickets = [
            Ticket(
                study=found,
                is_known=study is not found,
                messages=messages,
                sampling=sampling,
                deadline=time.monotonic() + sampling.timeout_s,
                deliver=deliver,
                choice=choice,
            )
            for choice in range(sampling.num_choices)
        ]
        for ticket in tickets:
            self._worker.submit(ticket)
        held: list[Event] = []
        is_started, num_left = False, len(tickets)
        try:
            while num_left:
                event = await queue.get()
                if isinstance(event, InternalError):
                    raise event
                if isinstance(event, Started):
                    if not is_started:  # else by another choice
                        held.append(event)
                    is_started = True
                    continue
                held.append(event)
                num_left -= isinstance(event, Finished)
                is_over = isinstance(event, Failed) or not num_left
                if is_over or (sampling.stream and queue.empty()):
                    yield tuple(held)
                    held = []
                if isinstance(event, Failed):
                    return
        finally:
            cancel()

    async def answer(
        self, study: Study, messages: Sequence[dict[str, str]], sampling: Sampling
    ) -> tuple[Event, ...]:
        """All that `generate` yields, at its end.

        Raises:
            InternalError: as `generate`.
        """
        async with aclosing(self.batches(study, messages, sampling)) as batches:
            return tuple([event async for events in batches for event in events])

    def _find(self, study: Study) -> EncodedStudy | None:
        """The study itself, kept from now on where it has a name; None where it is not there."""
        if not isinstance(study, EncodedStudy):
            return self._studies.get(study.name)
        if not study.name:
            return study
        self._studies.put(study.name, study, size_bytes=study.tokens.nbytes)
        return study
