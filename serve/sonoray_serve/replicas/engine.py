"""The engine deployment: an encoded study and a conversation in, an answer piece by piece out.

All answers are decoded together by one thread (`sonoray_serve.schedule`) and handed to the event
loop through a queue each, so a slow decoder never blocks health checks. Closing the iterator (Ray
Serve does it when the client disconnects) frees the answer's room before the next step.

Only the language half of the model is loaded, its adapter merged. Another engine, such as vLLM with
`prompt_embeds`, takes the place of this class and nothing else (`messages.EnginePort`).
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence

from llava_ultra.recognition.bank import ClassBank
from sonoray.errors import ServingError
from sonoray_serve.messages import (
    ClassShares,
    EncodedStudy,
    Event,
    Failed,
    Finished,
    ModelCard,
    Sampling,
)
from sonoray_serve.problems import InternalError
from sonoray_serve.replicas.class_reader import ClassReader
from sonoray_serve.replicas.loading import ModelSource, describe, load_language_half
from sonoray_serve.schedule.meters import Counts, Meters, show_model
from sonoray_serve.schedule.scheduler import Scheduler
from sonoray_serve.schedule.ticket import Ticket
from sonoray_serve.schedule.worker import Worker
from sonoray_serve.settings import Batching


class Engine:
    """Owns the language model."""

    def __init__(self, source: ModelSource, batching: Batching) -> None:
        """Load the model's language half and take the memory for the answers.

        Raises:
            CheckpointError: as `load_language_half` does.
            ServingError: the decoder cannot be served, or not with this memory.
        """
        from llava_ultra.batching.prefix import PrefixStore
        from llava_ultra.batching.ragged import RaggedDecoder
        from llava_ultra.batching.running import Batch
        from llava_ultra.language.chat import end_id

        self._answerer, self._digest = load_language_half(source)
        try:
            decoder = RaggedDecoder(
                self._answerer.model,
                max_bytes=batching.key_value_bytes,
                max_rows=batching.max_answers,
            )
        except ValueError as error:
            raise ServingError(f"serve.batching does not fit {source.model!r}: {error}") from None
        self._classes = ClassReader(self._answerer, self._digest)
        prefixes = PrefixStore(max_bytes=batching.prefix_bytes)
        self._scheduler = Scheduler(
            self._answerer,
            Batch(decoder, prefixes, end_id=end_id(self._answerer.tokenizer)),
            digest=self._digest,
            prompt_tokens=batching.prompt_tokens_per_step,
            stream_interval_s=batching.stream_interval_s,
        )
        self._worker = Worker(self._scheduler, show=Meters().show)
        self._tell_model = show_model(self._digest)

    async def check_health(self) -> None:
        """Called by Ray Serve every few seconds: a moment to tell what is served."""
        self._tell_model()

    async def describe(self) -> ModelCard:
        """What the ingress needs to know of the model."""
        return describe(self._answerer, self._digest)

    async def load(self) -> Counts:
        """What the engine does now and has done."""
        return self._scheduler.counts

    async def recognize(self, study: EncodedStudy, bank: ClassBank) -> ClassShares | Failed:
        """Hold a study against classes; see `RecognizePort`.

        Raises:
            InternalError: the decoder failed; says where, never on what.
        """
        return await asyncio.to_thread(self._classes.score, study, bank)

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
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Event | InternalError] = asyncio.Queue()

        def deliver(event: Event | InternalError) -> None:
            try:
                loop.call_soon_threadsafe(queue.put_nowait, event)
            except RuntimeError:  # the loop is closed: nobody is there any more
                self._worker.cancel(ticket)

        ticket = Ticket(
            study=study,
            messages=messages,
            sampling=sampling,
            deadline=time.monotonic() + sampling.timeout_s,
            deliver=deliver,
        )
        self._worker.submit(ticket)
        try:
            while True:
                event = await queue.get()
                if isinstance(event, InternalError):
                    raise event
                yield event
                if isinstance(event, Finished | Failed):
                    return
        finally:
            self._worker.cancel(ticket)
