"""Which request begins when, and the next token of all: one call of `tick` is one step.

Requests begin in the order of their arrival, as soon as there is room for prompt and answer. Then
up to `prompt_tokens` of prompts are read, and every answer that is under way gets one token. Who
leaves, by its own end, its client's or its time's, is out before the next step. Nothing here
waits, sleeps or knows of threads: `llava_ultra.batching` holds the tensors, `worker` the thread.

A request fails alone where it can: while it is prepared and read, or by logits that are no numbers.
A step that raises takes all rows that were in it along, and none that waits.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sonoray_serve.messages import EncodedStudy, Failed, Finished, Started
from sonoray_serve.problems import InternalError, Problem, contained
from sonoray_serve.schedule.meters import Counts
from sonoray_serve.schedule.ticket import Ticket, TokenTexts, Writer

if TYPE_CHECKING:
    from llava_ultra.batching.adapters import AdapterBank
    from llava_ultra.batching.running import Batch, Row, Step
    from llava_ultra.export.assistant import Answerer, Prompt
    from llava_ultra.export.encoder import VisualStudy
    from llava_ultra.export.hosted import Hosted

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Head:
    """The request that begins next, prepared."""

    ticket: Ticket
    answerer: "Answerer"
    visual: "VisualStudy"
    prompt: "Prompt"
    max_tokens: int
    options: tuple[tuple[int, ...], ...]
    """Token ids of each."""


class Scheduler:
    """See the module's docstring; for one thread."""

    def __init__(
        self,
        answerer: "Answerer",
        batch: "Batch",
        *,
        digest: str,
        prompt_tokens: int,
        stream_interval_s: float,
        adapters: "AdapterBank | None" = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the first model.

        Args:
            answerer: of the model.
            batch: what is decoded together.
            digest: of the model; studies that no model here has encoded are refused.
            prompt_tokens: that are read in a step.
            stream_interval_s: least time between two pieces of a streamed answer.
            adapters: of the decoder, by digest of the model; None where the first model's is
                merged into it, and no other can be admitted.
            clock: in seconds.
        """
        self._answerers = {digest: answerer}
        self._batch = batch
        self._adapters = adapters
        self._leaving: set[str] = set()  # digests of models that rows may still have
        self._prompt_tokens = prompt_tokens
        self._stream_interval_s = stream_interval_s
        self._clock = clock
        self._waiting: deque[Ticket] = deque()
        self._head: _Head | None = None  # of the ticket that has waited longest, once prepared
        self._writers: dict[Row, Writer] = {}
        self.counts = Counts()
        self.failures_in_a_row = 0
        """Calls of the decoder that failed since the last one that did not."""

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._waiting and not self._writers

    def add(self, ticket: Ticket) -> None:
        """Take a request."""
        self._waiting.append(ticket)
        self._count()

    def admit(self, digest: str, hosted: "Hosted") -> None:
        """Let requests have another model.

        Raises:
            ValueError: its adapter does not fit the decoder.
        """
        assert self._adapters is not None
        if digest not in self._adapters.names:
            self._adapters.add(digest, hosted.adapter, hosted.lora)
        self._leaving.discard(digest)
        self._answerers[digest] = hosted.answerer

    def dismiss(self, digest: str) -> None:
        """Let no further request have a model; those that have begun go on with it."""
        if self._answerers.pop(digest, None) is not None:
            self._leaving.add(digest)

    def cancel(self, ticket: Ticket) -> None:
        """Let a request go whose client has gone; nothing where it has ended."""
        if self._leave(ticket):
            self.counts.num_cancelled += 1

    def tick(self) -> None:
        """Do one step: end what is over, begin what fits, read prompts, decode one token each."""
        self._expire()
        self._forget()
        left = self._prompt_tokens
        while left > 0 and (self._batch.reading is not None or self._begin()):
            left -= self._read(left)
        try:
            with contained(logger):
                steps = self._batch.step()
        except InternalError as error:
            self._fail_active(error)
        else:
            if steps:
                self.failures_in_a_row = 0
            self._write(steps)
        self._count()

    def fail(self, error: InternalError) -> None:
        """Tell everybody, those who wait as well, after a failure of the scheduler itself."""
        self._fail_active(error)
        for ticket in tuple(self._waiting):
            self._end(ticket, error)

    def _expire(self) -> None:
        now = self._clock()
        for ticket in (*(writer.ticket for writer in self._writers.values()), *self._waiting):
            if now >= ticket.deadline:
                self._end(ticket, Failed(problem=Problem.DEADLINE))

    def _forget(self) -> None:
        """Take away the adapters of models that have been dismissed and that no row has."""
        if not self._leaving or self._adapters is None:
            return
        used = {writer.row.adapter for writer in self._writers.values()}
        if self._head is not None:
            used.add(self._head.ticket.study.digest)
        for digest in self._leaving - used:
            self._adapters.remove(digest)
            self._leaving.discard(digest)

    def _begin(self) -> bool:
        """Begin with the request that has waited longest, if there is one and room for it."""
        while self._waiting:
            ticket = self._waiting[0]
            try:
                with contained(logger):
                    if self._head is None:
                        prepared = self._prepare(ticket)
                        if isinstance(prepared, Failed):
                            self._end(ticket, prepared)
                            continue
                        self._head = prepared
                    head = self._head
                    if not self._batch.fits(head.prompt.num_prompt_tokens + head.max_tokens):
                        return False
                    self._start(head)
            except InternalError as error:
                self._end(ticket, error)
                continue
            return True
        return False

    def _prepare(self, ticket: Ticket) -> _Head | Failed:
        from llava_ultra.language.chat import ConversationError, encode_answer

        answerer = self._answerers.get(ticket.study.digest)
        if answerer is None:  # its model has left, or is not here yet
            return Failed(problem=Problem.UNAVAILABLE)
        if not ticket.is_known and not np.isfinite(ticket.study.tokens).all():
            raise ValueError("a study's tokens are no numbers")
        visual = _to_visual(ticket.study)
        context = answerer.context_length
        try:
            prompt = answerer.prepare(visual, ticket.messages)
        except ConversationError as error:
            return Failed(problem=Problem.CONVERSATION_NOT_ACCEPTED, detail=str(error))
        except ValueError:  # the model's word for a conversation that it cannot take
            return Failed(problem=Problem.CONTEXT_LENGTH_EXCEEDED, limit=context)
        room = context - prompt.num_prompt_tokens
        max_tokens = min(ticket.sampling.max_tokens, room)
        options: tuple[tuple[int, ...], ...] = ()
        if ticket.sampling.options:
            try:
                options = tuple(
                    tuple(encode_answer(answerer.tokenizer, option))
                    for option in ticket.sampling.options
                )
            except ValueError:  # characters without a token
                return Failed(problem=Problem.OPTION_NOT_ACCEPTED)
            max_tokens = max(map(len, options))
            if max_tokens > room:
                return Failed(problem=Problem.CONTEXT_LENGTH_EXCEEDED, limit=context)
        return _Head(
            ticket=ticket,
            answerer=answerer,
            visual=visual,
            prompt=prompt,
            max_tokens=max_tokens,
            options=options,
        )

    def _start(self, head: _Head) -> None:
        from llava_ultra.batching.prefix import prompt_keys
        from llava_ultra.decoding.pieces import Pieces
        from llava_ultra.decoding.rules import Penalties, build_decoding

        prompt, sampling = head.prompt, head.ticket.sampling
        digest, tokenizer = head.ticket.study.digest, head.answerer.tokenizer
        adapter = "" if self._adapters is None else digest
        images = [head.visual.tokens[index] for index in prompt.selected]
        row = self._batch.begin(
            prompt.inputs_embeds[0],
            build_decoding(
                max_tokens=head.max_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                seed=None if sampling.seed is None else sampling.seed + head.ticket.choice,
                penalties=Penalties(
                    frequency=sampling.frequency_penalty, presence=sampling.presence_penalty
                ),
                without=self._batch.end_id if sampling.ignore_end else None,
            ),
            keys=prompt_keys(prompt.ids, prompt.images_at, images, adapter=adapter),
            adapter=adapter,
            num_likeliest=sampling.num_likeliest,
            options=head.options,
        )
        self._waiting.popleft()
        self._head = None
        self._writers[row] = Writer(
            ticket=head.ticket,
            row=row,
            pieces=Pieces(tokenizer, sampling.stop),
            texts=TokenTexts(tokenizer),
            interval_s=self._stream_interval_s,
        )
        self._count()
        head.ticket.deliver(
            Started(
                num_prompt_tokens=prompt.num_prompt_tokens,
                scores=tuple(prompt.scores),
                selected=tuple(prompt.selected),
                digest=digest,
            )
        )

    def _read(self, max_tokens: int) -> int:
        """Read on in the prompt that has begun; gives the tokens that it took."""
        row = self._batch.reading
        assert row is not None
        try:
            with contained(logger):
                num_read, steps = self._batch.read(max_tokens)
        except InternalError as error:
            self.failures_in_a_row += 1
            self._end(self._writers[row].ticket, error)
            return max_tokens
        self.failures_in_a_row = 0
        self._write(steps)
        return num_read

    def _write(self, steps: "Sequence[Step]") -> None:
        """Tell what became of the answers by their new tokens."""
        now = self._clock()
        for step in steps:
            self.counts.num_answer_tokens += step.reason != "scored"
            writer = self._writers[step.row]
            if step.reason == "failed":
                logger.error("request failed: its logits are no numbers")
                self._end(writer.ticket, InternalError("logits that are no numbers"))
                continue
            events = writer.write(step, now)
            if events and isinstance(events[-1], Finished):
                self._leave(writer.ticket)  # who has seen the end finds the room free
            for event in events:
                writer.ticket.deliver(event)

    def _end(self, ticket: Ticket, event: Failed | InternalError) -> None:
        """Let a request go and tell it why."""
        self._leave(ticket)
        ticket.deliver(event)

    def _leave(self, ticket: Ticket) -> bool:
        """Take a request out, wherever it is; tells whether it was there."""
        if ticket in self._waiting:
            self._waiting.remove(ticket)
            if self._head is not None and self._head.ticket is ticket:
                self._head = None
        else:
            row = next((r for r, writer in self._writers.items() if writer.ticket is ticket), None)
            if row is None:
                return False
            self._batch.drop(row)
            del self._writers[row]
        self.counts.num_ended += 1
        self._count()
        return True

    def _fail_active(self, error: InternalError) -> None:
        self.failures_in_a_row += 1
        self._batch.clear()
        for writer in tuple(self._writers.values()):
            self._end(writer.ticket, error)

    def _count(self) -> None:
        counts = self.counts
        counts.num_waiting = len(self._waiting)
        counts.num_active = len(self._writers)
        counts.work = self._batch.share(
            len(self._waiting), sum(each.sampling.max_tokens for each in self._waiting)
        )
        counts.num_prompt_tokens = self._batch.num_read
        counts.num_shared_tokens = self._batch.num_shared


def _to_visual(study: EncodedStudy) -> "VisualStudy":
    """The arrays as tensors that share their memory, unless it may only be read."""
    import torch

    from llava_ultra.export.encoder import VisualStudy

    tokens, scores = (
        torch.from_numpy(np.require(array, requirements="W"))
        for array in (study.tokens, study.feature_scores)
    )
    return VisualStudy(tokens=tokens, feature_scores=scores)
