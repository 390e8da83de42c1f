"""One request on its way through the scheduler: what it asks, and its answer's text so far."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sonoray_serve.messages import EncodedStudy, Event, Finished, Piece, Sampling
from sonoray_serve.problems import InternalError

if TYPE_CHECKING:
    from llava_ultra.batching.running import Row, Step
    from llava_ultra.decoding.pieces import Pieces


@dataclass(kw_only=True, slots=True, eq=False)
class Ticket:
    """A request, and who hears of it."""

    study: EncodedStudy
    messages: Sequence[dict[str, str]]
    sampling: Sampling
    deadline: float
    """On the scheduler's clock."""
    deliver: Callable[[Event | InternalError], None]
    """Called in the decoder's thread."""


@dataclass(kw_only=True, slots=True, eq=False)
class Writer:
    """Turns the tokens of one answer into pieces of text, not more often than wanted."""

    ticket: Ticket
    row: "Row"
    pieces: "Pieces"
    interval_s: float
    """Least time between two pieces."""
    next_at: float = 0.0

    def write(self, step: "Step", now: float) -> list[Piece | Finished]:
        """What the answer's reader is told after a token; ends with `Finished` or goes on."""
        stopped = step.reason != "stop" and self.pieces.add(step.token)
        if stopped or step.reason is not None:
            is_cut = step.reason == "length" and not stopped
            end = Finished(reason="length" if is_cut else "stop", num_tokens=len(self.row.ids))
            text = self.pieces.rest()
            return [Piece(text=text), end] if text or not self.ticket.sampling.stream else [end]
        if not self.ticket.sampling.stream or now < self.next_at:
            return []
        text = self.pieces.take()
        if not text:
            return []
        self.next_at = now + self.interval_s
        return [Piece(text=text)]
