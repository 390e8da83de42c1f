"""How an answer is written: as OpenAI's chat, or as its older plain completion.

Each form writes a whole answer, and the events of a stream: the opening of a choice, a piece of its
text, its end, and the token counts. `sonoray` stands on the last event that has the answer's end,
or on the token counts where the client asked for them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pydantic import BaseModel

from sonoray_serve.messages import Finished, Piece, ScoredToken, Token
from sonoray_serve.shapes import answers
from sonoray_serve.shapes.tool_shapes import CallChunk, CallMade


@dataclass(kw_only=True, slots=True)
class Told:
    """One choice as a whole."""

    text: str
    tokens: list[ScoredToken]
    end: Finished | None = None
    call: CallMade | None = None
    """The tool that is called in place of a text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """What stands on every event of an answer."""

    id: str
    created: int
    model: str
    has_logprobs: bool
    """Whether the client asked for them."""


class Form(Protocol):
    """One way to write an answer."""

    prefix: str
    """Of an answer's id."""

    def whole(
        self, head: Head, told: Sequence[Told], usage: answers.Usage, sonoray: answers.SonoRay
    ) -> BaseModel:
        """A whole answer."""

    def opening(self, head: Head, choice: int) -> list[bytes]:
        """What comes before a choice's text."""

    def piece(self, head: Head, piece: Piece) -> bytes:
        """A piece of a choice's text."""

    def call(self, head: Head, call: CallMade) -> bytes:
        """A call of a tool, in place of text."""

    def end(self, head: Head, end: Finished, sonoray: answers.SonoRay | None) -> bytes:
        """The end of a choice."""

    def counts(self, head: Head, usage: answers.Usage, sonoray: answers.SonoRay) -> bytes:
        """The token counts behind all choices."""


class ChatForm:
    """`/v1/chat/completions`."""

    prefix = "chatcmpl"

    def whole(
        self, head: Head, told: Sequence[Told], usage: answers.Usage, sonoray: answers.SonoRay
    ) -> BaseModel:
        """See `Form`."""
        return answers.ChatCompletion(
            id=head.id,
            created=head.created,
            model=head.model,
            choices=[
                answers.Choice(
                    index=index,
                    message=answers.AnswerMessage(
                        content=None if each.call else each.text,
                        tool_calls=[each.call] if each.call else None,
                    ),
                    logprobs=logprobs(each.tokens) if head.has_logprobs else None,
                    finish_reason=each.end.reason if each.end else "stop",
                )
                for index, each in enumerate(told)
            ],
            usage=usage,
            sonoray=sonoray,
        )

    def opening(self, head: Head, choice: int) -> list[bytes]:
        """See `Form`."""
        delta = answers.Delta(role="assistant", content="")
        return [_chat_chunk(head, answers.ChunkChoice(index=choice, delta=delta))]

    def piece(self, head: Head, piece: Piece) -> bytes:
        """See `Form`."""
        choice = answers.ChunkChoice(
            index=piece.choice,
            delta=answers.Delta(content=piece.text),
            logprobs=logprobs(piece.tokens) if head.has_logprobs else None,
        )
        return _chat_chunk(head, choice)

    def call(self, head: Head, call: CallMade) -> bytes:
        """See `Form`."""
        delta = answers.Delta(tool_calls=[CallChunk(**call.model_dump())])
        return _chat_chunk(head, answers.ChunkChoice(index=0, delta=delta))

    def end(self, head: Head, end: Finished, sonoray: answers.SonoRay | None) -> bytes:
        """See `Form`."""
        choice = answers.ChunkChoice(
            index=end.choice, delta=answers.Delta(), finish_reason=end.reason
        )
        return _chat_chunk(head, choice, sonoray=sonoray)

    def counts(self, head: Head, usage: answers.Usage, sonoray: answers.SonoRay) -> bytes:
        """See `Form`."""
        return _chat_chunk(head, usage=usage, sonoray=sonoray)


def logprobs(tokens: Sequence[ScoredToken]) -> answers.Logprobs:
    """Scored tokens as OpenAI writes them."""
    return answers.Logprobs(
        content=[
            answers.TokenLogprobs(
                **_logprob(each.token).model_dump(),
                top_logprobs=[_logprob(token) for token in each.likeliest],
            )
            for each in tokens
        ]
    )


def _logprob(token: Token) -> answers.TokenLogprob:
    # a token that no decoding rule forbids has a finite one, but JSON has no infinity at all
    log_prob = max(token.log_prob, -9999.0)
    return answers.TokenLogprob(token=token.text, logprob=log_prob, bytes=list(token.data))


def _chat_chunk(
    head: Head,
    *choices: answers.ChunkChoice,
    usage: answers.Usage | None = None,
    sonoray: answers.SonoRay | None = None,
) -> bytes:
    chunk = answers.ChatChunk(
        id=head.id,
        created=head.created,
        model=head.model,
        choices=list(choices),
        usage=usage,
        sonoray=sonoray,
    )
    return answers.to_chunk(chunk)
