"""An answer on its way out: as a whole, or as server-sent events.

It comes as events of the engine, several choices mixed, and is written in one of the forms of
`sonoray_serve.shapes.forms`. However it ends, the engine's iterator is closed: that frees its room.
"""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass

from pydantic import BaseModel

from sonoray_serve.asking.studies import Seen
from sonoray_serve.http.deadline import Deadline
from sonoray_serve.http.question import Question
from sonoray_serve.intake.uses import LACKS, lacks_pictures
from sonoray_serve.messages import (
    Calibration,
    Event,
    Failed,
    Finished,
    Piece,
    Started,
    Weighed,
)
from sonoray_serve.problems import ApiError, InternalError, Problem, contained
from sonoray_serve.routing.students import Named
from sonoray_serve.shapes import answers
from sonoray_serve.shapes.choices import Options, weigh
from sonoray_serve.shapes.forms import Form, Head, Told
from sonoray_serve.shapes.tool_shapes import CallMade
from sonoray_serve.shapes.tools import Tools, ends_with

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer that has begun; it holds nothing of the request's body."""

    form: Form
    head: Head
    as_stream: bool
    """Whether the client asked for a stream."""
    include_usage: bool
    """Whether that stream ends with the token counts."""
    num_choices: int
    options: Options | None
    """Of a closed question."""
    tools: Tools | None = None
    """What may be called, or has to be."""
    calibration: Calibration | None
    sonoray: answers.SonoRay
    num_prompt_tokens: int
    events: AsyncGenerator[Event, None]
    deadline: Deadline

    async def rest(self) -> AsyncIterator[Piece | CallMade | Finished]:
        """The pieces and the end of each choice; a choice among options is one piece.

        Where tools are offered there is one choice, and its text comes whole or as a call.

        Raises:
            ApiError: the answer broke off.
        """
        num_left = self.num_choices
        text = ""
        while num_left:
            async with self.deadline.scope():
                event = await anext(self.events)
            if isinstance(event, Failed):
                raise ApiError(event.problem, limit=event.limit or self.deadline.limit_s)
            if self.tools is not None:
                if isinstance(event, Piece):
                    text += event.text
                elif isinstance(event, Weighed):
                    text, self.sonoray.closed = weigh(
                        Options(texts=self.tools.texts), event.log_likelihoods, None
                    )
                else:
                    assert isinstance(event, Finished)
                    for each in ends_with(self.tools, text, event):
                        yield each
                    num_left -= 1
                continue
            if isinstance(event, Weighed):
                assert self.options is not None
                text, closed = weigh(self.options, event.log_likelihoods, self.calibration)
                self.sonoray.closed = closed
                event = Piece(text=self.options.content(text))
            assert isinstance(event, Piece | Finished)
            yield event
            num_left -= isinstance(event, Finished)

    async def complete(self) -> BaseModel:
        """The whole answer.

        Raises:
            ApiError: it broke off.
        """
        told = [Told(text="", tokens=[]) for _ in range(self.num_choices)]
        try:
            async for event in self.rest():
                if isinstance(event, CallMade):
                    told[0].call = event
                    continue
                each = told[event.choice]
                if isinstance(event, Finished):
                    each.end = event
                else:
                    each.text += event.text
                    each.tokens += event.tokens
        finally:
            await self.events.aclose()
        num_tokens = sum(each.end.num_tokens for each in told if each.end)
        return self.form.whole(self.head, told, self._usage(num_tokens), self.sonoray)

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """The answer as server-sent events; an error ends it as one event and without [DONE]."""
        try:
            with contained(logger):
                async for event in self._stream():
                    yield event
        except ApiError as error:
            yield answers.to_event(error.body())
        except InternalError:
            yield answers.to_event(ApiError(Problem.INTERNAL).body())
        finally:
            await self.events.aclose()

    async def _stream(self) -> AsyncIterator[bytes]:
        form, head = self.form, self.head
        for choice in range(self.num_choices):
            for opening in form.opening(head, choice):
                yield opening
        num_tokens, num_left = 0, self.num_choices
        async for event in self.rest():
            if isinstance(event, Piece):
                yield form.piece(head, event)
                continue
            if isinstance(event, CallMade):
                yield form.call(head, event)
                continue
            num_tokens += event.num_tokens
            num_left -= 1
            is_last = num_left == 0 and not self.include_usage
            yield form.end(head, event, self.sonoray if is_last else None)
        if self.include_usage:
            yield form.counts(head, self._usage(num_tokens), self.sonoray)
        yield answers.LAST_EVENT

    def _usage(self, num_tokens: int) -> answers.Usage:
        return answers.Usage(
            prompt_tokens=self.num_prompt_tokens,
            completion_tokens=num_tokens,
            total_tokens=self.num_prompt_tokens + num_tokens,
        )


REMARKS = {
    "no_image": "no image was given: the model was trained on studies with images alone, and this "
    "answer rests on the text",
    "system": "a system message was given: no training has shown one, and answers may differ",
    "tools": "tools were offered: no training has shown any, so that a call in the model's own "
    "words is unlikely; one that is forced is the likeliest of those that fit",
}
"""Forms of a request that no training has shown."""


def describe_answer(
    model: Named,
    started: Started,
    seen: Seen,
    pictures: Sequence[answers.ImageUse],
    question: Question,
    asked: Sequence[tuple[str, str]],
) -> answers.SonoRay:
    """What an answer says beyond OpenAI's shape, as it begins."""
    images = [
        each.model_copy(update={"score": score, "selected": each.index in started.selected})
        for each, score in zip(pictures, started.scores, strict=True)
    ]
    remarks = [] if images else [REMARKS["no_image"]]
    if question.tools is not None:
        remarks.append(REMARKS["tools"])
    elif any(message["role"] == "system" for message in question.messages):
        remarks.append(REMARKS["system"])
    if lacks_pictures(seen):
        remarks.append(LACKS)
    told = describe_study(model, images, started.digest, remarks)
    told.left_out = dict(seen.left_out)
    told.asked_first = [answers.Asked(question=each, answer=said) for each, said in asked]
    return told


def describe_study(
    model: Named,
    images: list[answers.ImageUse],
    digest: str,
    remarks: Sequence[str] = (),
) -> answers.SonoRay:
    """What is said of a study's images, whatever comes of them."""
    return answers.SonoRay(
        images=images,
        remarks=list(remarks),
        notice=model.card.notice,
        model=model.name,
        answered_by="student" if model.is_student else "model",
        digest=digest,
    )
