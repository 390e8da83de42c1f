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
from sonoray_serve.schedule.ticket import Ticket, Writer

if TYPE_CHECKING:
    from llava_ultra.batching.running import Batch, Row, Step
    from llava_ultra.export.assistant import Answerer, Prompt
    from llava_ultra.export.encoder import VisualStudy

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Head:
    """The request that begins next, prepared."""

    ticket: Ticket
    visual: "VisualStudy"
    prompt: "Prompt"
    max_tokens: int


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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args: `digest` of the model; studies of another one are refused."""
        self._answerer = answerer
        self._batch = batch
        self._digest = digest
        self._prompt_tokens = prompt_tokens
        self._stream_interval_s = stream_interval_s
        self._clock = clock
        self._waiting: deque[Ticket] = deque()
        self._head: _Head | None = None  # of the ticket that has waited longest, once prepared
        self._writers: dict[Row, Writer] = {}
        self.counts = Counts()

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._waiting and not self._writers

    def add(self, ticket: Ticket) -> None:
        """Take a request."""
        self._waiting.append(ticket)
        self._count()

    def cancel(self, ticket: Ticket) -> None:
        """Let a request go whose client has gone; nothing where it has ended."""
        if self._leave(ticket):
            self.counts.num_cancelled += 1

    def tick(self) -> None:
        """Do one step: end what is over, begin what fits, read prompts, decode one token each."""
        self._expire()
        left = self._prompt_tokens
        while left > 0 and (self._batch.reading is not None or self._begin()):
            left -= self._read(left)
        try:
            with contained(logger):
                steps = self._batch.step()
        except InternalError as error:
            self._fail_active(error)
        else:
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
        from llava_ultra.language.chat import ConversationError

        answerer = self._answerer
        if ticket.study.digest != self._digest:  # a rolling update is on its way
            return Failed(problem=Problem.UNAVAILABLE)
        if not np.isfinite(ticket.study.tokens).all():
            raise ValueError("a study's tokens are no numbers")
        visual = _to_visual(ticket.study)
        context = answerer.context_length
        try:
            prompt = answerer.prepare(visual, ticket.messages)
        except ConversationError as error:
            return Failed(problem=Problem.CONVERSATION_NOT_ACCEPTED, detail=str(error))
        except ValueError:  # the model's word for a conversation that it cannot take
            return Failed(problem=Problem.CONTEXT_LENGTH_EXCEEDED, limit=context)
        max_tokens = min(ticket.sampling.max_tokens, context - prompt.num_prompt_tokens)
        return _Head(ticket=ticket, visual=visual, prompt=prompt, max_tokens=max_tokens)

    def _start(self, head: _Head) -> None:
        from llava_ultra.batching.prefix import prompt_keys
        from llava_ultra.decoding.pieces import Pieces
        from llava_ultra.decoding.rules import build_decoding

        prompt, sampling = head.prompt, head.ticket.sampling
        images = [head.visual.tokens[index] for index in prompt.selected]
        row = self._batch.begin(
            prompt.inputs_embeds[0],
            build_decoding(
                max_tokens=head.max_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                seed=sampling.seed,
            ),
            keys=prompt_keys(prompt.ids, prompt.images_at, images),
        )
        self._waiting.popleft()
        self._head = None
        self._writers[row] = Writer(
            ticket=head.ticket,
            row=row,
            pieces=Pieces(self._answerer.tokenizer, sampling.stop),
            interval_s=self._stream_interval_s,
        )
        self._count()
        head.ticket.deliver(
            Started(
                num_prompt_tokens=prompt.num_prompt_tokens,
                scores=tuple(prompt.scores),
                selected=tuple(prompt.selected),
                digest=self._digest,
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
            self._end(self._writers[row].ticket, error)
            return max_tokens
        self._write(steps)
        return num_read

    def _write(self, steps: "Sequence[Step]") -> None:
        """Tell what became of the answers by their new tokens."""
        now = self._clock()
        self.counts.num_answer_tokens += len(steps)
        for step in steps:
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
        self._batch.clear()
        for writer in tuple(self._writers.values()):
            self._end(writer.ticket, error)

    def _count(self) -> None:
        counts = self.counts
        counts.num_waiting = len(self._waiting)
        counts.num_active = len(self._writers)
        counts.num_prompt_tokens = self._batch.num_read
        counts.num_shared_tokens = self._batch.num_shared


def _to_visual(study: EncodedStudy) -> "VisualStudy":
    """Copy the arrays into tensors: what arrives from Ray's object store is read-only."""
    import torch

    from llava_ultra.export.encoder import VisualStudy

    return VisualStudy(
        tokens=torch.tensor(study.tokens), feature_scores=torch.tensor(study.feature_scores)
    )
