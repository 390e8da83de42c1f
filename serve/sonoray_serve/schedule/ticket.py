"""One request on its way through the scheduler: what it asks, and its answer's text so far."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sonoray_serve.messages import (
    EncodedStudy,
    Event,
    Finished,
    Piece,
    Sampling,
    ScoredToken,
    Token,
    Weighed,
)
from sonoray_serve.problems import InternalError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from llava_ultra.batching.running import Row, Step
    from llava_ultra.batching.token_scores import TokenScore
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
    is_known: bool = False
    """Whether its study was looked at for an earlier request."""
    choice: int = 0
    """Which of a request's answers it is; a request with several has a ticket for each."""


class TokenTexts:
    """What single tokens say; for one thread, as the tokenizer is."""

    def __init__(self, tokenizer: "PreTrainedTokenizerFast") -> None:
        self._tokenizer = tokenizer

    def told(self, token: int, log_prob: float) -> Token:
        """A token as a client is told it."""
        from llava_ultra.language.token_bytes import token_bytes

        data = token_bytes(self._tokenizer, token)
        return Token(text=data.decode(errors="replace"), data=data, log_prob=log_prob)


@dataclass(kw_only=True, slots=True, eq=False)
class Writer:
    """Turns the tokens of one answer into pieces of text, not more often than wanted."""

    ticket: Ticket
    row: "Row"
    pieces: "Pieces"
    texts: "TokenTexts"
    interval_s: float
    """Least time between two pieces."""
    next_at: float = 0.0
    scored: list[ScoredToken] = field(default_factory=list)
    """Tokens that no piece has carried yet."""

    def write(self, step: "Step", now: float) -> list[Piece | Weighed | Finished]:
        """What the answer's reader is told after a token; ends with `Finished` or goes on."""
        choice = self.ticket.choice
        if step.reason == "scored":
            likelihoods = self.row.likelihoods
            best = self.row.options[likelihoods.index(max(likelihoods))]
            return [
                Weighed(log_likelihoods=tuple(likelihoods)),
                Finished(reason="stop", num_tokens=len(best), choice=choice),
            ]
        if step.score is not None and step.reason != "stop":
            self.scored.append(self._told(step.score))
        stopped = step.reason != "stop" and self.pieces.add(step.token)
        if stopped or step.reason is not None:
            is_cut = step.reason == "length" and not stopped
            end = Finished(
                reason="length" if is_cut else "stop",
                num_tokens=len(self.row.ids),
                choice=choice,
            )
            text = self.pieces.rest()
            if text or self.scored or not self.ticket.sampling.stream:
                return [self._piece(text), end]
            return [end]
        if not self.ticket.sampling.stream or now < self.next_at:
            return []
        text = self.pieces.take()
        if not text:
            return []
        self.next_at = now + self.interval_s
        return [self._piece(text)]

    def _piece(self, text: str) -> Piece:
        tokens, self.scored = tuple(self.scored), []
        return Piece(text=text, choice=self.ticket.choice, tokens=tokens)

    def _told(self, score: "TokenScore") -> ScoredToken:
        texts = self.texts
        return ScoredToken(
            token=texts.told(score.token, score.log_prob),
            likeliest=tuple(texts.told(token, log_prob) for token, log_prob in score.likeliest),
        )
