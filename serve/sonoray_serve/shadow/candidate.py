"""A candidate that is asked what others are asked: copies of requests, and what differs.

The candidate is one of the service's models (`sonoray serve --adapters`), by the name of
`serve.shadow.name`. A share of the requests about the service's own model is put to it too, after
their answers have gone out: nobody waits for it, and nobody sees what it says. At most
`serve.shadow.max_waiting` copies are in hand at a time, whose pixels stay in memory that long; a
request that finds no place is not copied, and counted.

What is told is counts and digests, never a text: `/metrics` has the counts, a table
(`sonoray.records.comparison_table`) a row for each comparison.
"""

import asyncio
import hmac
import logging
import random
import secrets
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace

from sonoray.images.decode import Pixels
from sonoray.records.comparison_table import Comparison
from sonoray_serve.asking.asked_first import ask_first, is_report, with_answers
from sonoray_serve.asking.studies import AskedStudy, Seen
from sonoray_serve.messages import (
    EnginePort,
    Event,
    Failed,
    Finished,
    ModelCard,
    Piece,
    Sampling,
    Started,
    VisionPort,
    Weighed,
)
from sonoray_serve.problems import ApiError, InternalError
from sonoray_serve.settings import ShadowConfig

logger = logging.getLogger(__name__)

OUTCOMES = ("same", "different", "failed", "dropped")

Record = Callable[[Comparison], None]
"""Keeps a comparison; called in a thread."""


@dataclass(kw_only=True, slots=True)
class Said:
    """What one model has said, as far as it is compared."""

    text: str = ""
    log_likelihoods: tuple[float, ...] = ()
    num_tokens: int = 0
    selected: tuple[int, ...] = ()

    def choice(self, options: Sequence[str]) -> str:
        """The text, or the option that is likeliest."""
        if not self.log_likelihoods:
            return self.text
        best = max(range(len(options)), key=self.log_likelihoods.__getitem__)
        return options[best]

    def take(self, event: Event) -> None:
        """Take in an event of the first choice; what says nothing is passed over."""
        if isinstance(event, Started):
            self.selected = event.selected
        elif isinstance(event, Weighed):
            self.log_likelihoods = event.log_likelihoods
        elif isinstance(event, Piece) and event.choice == 0:
            self.text += event.text
        elif isinstance(event, Finished) and event.choice == 0:
            self.num_tokens = event.num_tokens


@dataclass(kw_only=True)
class Copy:
    """A request that will be put to the candidate once its own answer is there."""

    shadow: "Shadow"
    card: ModelCard
    """Of the candidate."""
    answer_id: str = ""
    served_digest: str = ""
    images: Sequence[Pixels] = field(default=(), repr=False)
    messages: Sequence[dict[str, str]] = field(default=(), repr=False)
    sampling: Sampling | None = None
    said: Said = field(default_factory=Said, repr=False)
    is_open: bool = True

    def finish(self) -> None:
        """The answer has gone out whole: ask the candidate."""
        if self.is_open:
            self.is_open = False
            self.shadow.begin(self)

    def drop(self) -> None:
        """There is no whole answer to compare with; nothing after `finish`."""
        if self.is_open:
            self.is_open = False
            self.shadow.release()


class Shadow:
    """Puts copies to the candidate; for one event loop."""

    def __init__(
        self,
        *,
        vision: VisionPort,
        engine: EnginePort,
        settings: ShadowConfig,
        record: Record,
        timeout_s: float,
    ) -> None:
        """Args: `timeout_s` is the time that the candidate has for an answer."""
        self._vision = vision
        self._engine = engine
        self._settings = settings
        self._record = record
        self._timeout_s = timeout_s
        self._candidate: ModelCard | None = None
        self._num_in_hand = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._key = secrets.token_bytes(16)
        self._draw = random.Random()  # noqa: S311 - which requests are copied is no secret
        self.counts: Counter[str] = Counter(dict.fromkeys(OUTCOMES, 0))

    def offer(self, candidate: ModelCard | None) -> None:
        """Ask this model from now on; None asks nobody."""
        self._candidate = candidate

    def copy(self, served: ModelCard) -> Copy | None:
        """Take a place for a request about a model; None where it is not copied."""
        card = self._candidate
        if card is None or card.digest == served.digest:
            return None
        if self._draw.random() >= self._settings.share:
            return None
        if self._num_in_hand >= self._settings.max_waiting:
            self.counts["dropped"] += 1
            return None
        self._num_in_hand += 1
        return Copy(shadow=self, card=card, served_digest=served.digest)

    def release(self) -> None:
        """Give a place back."""
        self._num_in_hand -= 1

    def begin(self, copy: Copy) -> None:
        """Ask the candidate, beside everything else."""
        task = asyncio.create_task(self._compare(copy))
        self._tasks.add(task)  # or nobody would hold it
        task.add_done_callback(self._tasks.discard)

    async def settle(self) -> None:
        """Wait until every copy is answered."""
        while self._tasks:
            await asyncio.gather(*self._tasks)

    async def _compare(self, copy: Copy) -> None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._timeout_s):
                other = await self._ask(copy)
            compared = self._hold(copy, other, time.monotonic() - began)
            await asyncio.to_thread(self._record, compared)
            # whoever sees the count finds the record there and the place free
            self.counts["same" if compared.same_text else "different"] += 1
        except (ApiError, InternalError, TimeoutError) as error:
            self.counts["failed"] += 1
            logger.warning("a copy for the candidate failed: %s", type(error).__name__)
        finally:
            copy.images = ()
            self.release()

    async def _ask(self, copy: Copy) -> Said:
        assert copy.sampling is not None
        study = await self._vision.encode(copy.images, copy.card.digest)
        if isinstance(study, Failed):
            raise ApiError(study.problem)
        asking = AskedStudy(self._engine, study, Seen(is_transparent=()))
        messages, protocol = copy.messages, copy.card.protocol
        if not copy.sampling.options and is_report(messages, protocol):
            asked = await ask_first(asking, messages, protocol, self._timeout_s)
            messages = with_answers(messages, asked)
        said = Said()
        sampling = replace(copy.sampling, timeout_s=self._timeout_s, stream=False, num_choices=1)
        events = asking.generate(messages, sampling)
        try:
            async for event in events:
                if isinstance(event, Failed):
                    raise ApiError(event.problem)
                said.take(event)
                if isinstance(event, Finished):
                    break
        finally:
            await events.aclose()
        return said

    def _hold(self, copy: Copy, other: Said, took_s: float) -> Comparison:
        assert copy.sampling is not None
        options = copy.sampling.options
        texts = copy.said.choice(options), other.choice(options)
        return Comparison(
            answer_id=copy.answer_id,
            served_digest=copy.served_digest,
            candidate_digest=copy.card.digest,
            is_closed=bool(options),
            same_text=texts[0] == texts[1],
            same_images=copy.said.selected == other.selected,
            served_tokens=copy.said.num_tokens,
            candidate_tokens=other.num_tokens,
            served_text=self._digest(texts[0]),
            candidate_text=self._digest(texts[1]),
            took_s=round(took_s, 3),
        )

    def _digest(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), "sha256").hexdigest()[:16]


async def watched(events: AsyncGenerator[Event, None], copy: Copy) -> AsyncGenerator[Event, None]:
    """The events of an answer, of which a copy takes note: whole, it is put to the candidate."""
    assert copy.sampling is not None
    num_left = copy.sampling.num_choices
    try:
        async for event in events:
            copy.said.take(event)
            num_left -= isinstance(event, Finished)
            if num_left == 0:
                copy.finish()
            yield event
    finally:
        copy.drop()
        await events.aclose()
