"""How an answer that has begun may end."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from sonoray_serve.api import LAST_EVENT, ChatRequest, SonoRay
from sonoray_serve.chat import Answer, Deadline
from sonoray_serve.messages import Event, Failed, Finished, Piece
from sonoray_serve.problems import ApiError, InternalError, Problem

REQUEST = ChatRequest.model_validate(
    {"model": "m", "messages": [{"role": "user", "content": "q"}], "stream": True}
)
SONORAY = SonoRay(images=[], notice="n", model="m", digest="d")


class Events:
    """An engine's events by script, which notes that it was closed."""

    def __init__(self, *script: Event | Exception | float) -> None:
        self.script = script
        self.closed = False

    async def play(self) -> AsyncGenerator[Event, None]:
        try:
            for step in self.script:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, float):
                    await asyncio.sleep(step)
                else:
                    yield step
        finally:
            self.closed = True


def begin(events: Events, limit_s: float = 60.0) -> Answer:
    return Answer(
        request=REQUEST,
        sonoray=SONORAY,
        num_prompt_tokens=5,
        events=events.play(),
        deadline=Deadline.after(limit_s),
        id="id",
        created=1,
    )


async def stream(events: Events, limit_s: float) -> list[bytes]:
    return [event async for event in begin(events, limit_s).stream()]


async def complete(events: Events, limit_s: float) -> Any:
    return await begin(events, limit_s).complete()


ENDINGS: list[tuple[Callable[[], Events], str]] = [
    (lambda: Events(Piece(text="a"), 60.0), "deadline"),
    (lambda: Events(Piece(text="a"), Failed(problem=Problem.DEADLINE)), "deadline"),
    (lambda: Events(Piece(text="a"), Failed(problem=Problem.UNAVAILABLE)), "unavailable"),
    (lambda: Events(Piece(text="a"), ApiError(Problem.UNAVAILABLE)), "unavailable"),
]


@pytest.mark.parametrize(("make", "code"), ENDINGS)
def test_a_stream_that_breaks_off_says_why_and_is_not_done(make: Callable[[], Events], code: str):
    events = make()
    sent = asyncio.run(stream(events, 0.1))
    assert json.loads(sent[-1].removeprefix(b"data: "))["error"]["code"] == code
    assert LAST_EVENT not in sent
    assert events.closed


@pytest.mark.parametrize(("make", "code"), ENDINGS)
def test_a_whole_answer_that_breaks_off_is_an_error(make: Callable[[], Events], code: str):
    events = make()
    with pytest.raises(ApiError) as failed:
        asyncio.run(complete(events, 0.1))
    assert failed.value.problem.code == code
    assert events.closed


@pytest.mark.parametrize("failure", [InternalError("x"), RuntimeError("patient-name-canary")])
def test_a_crash_within_a_stream_ends_it_with_a_fixed_text(failure: Exception):
    sent = asyncio.run(stream(Events(Piece(text="a"), failure), 60.0))
    assert json.loads(sent[-1].removeprefix(b"data: "))["error"]["code"] == "internal"
    assert b"canary" not in b"".join(sent)


def test_an_answer_that_ends_is_done():
    events = Events(Piece(text="左"), Piece(text="侧"), Finished(reason="stop", num_tokens=3))
    sent = asyncio.run(stream(events, 60.0))
    assert sent[-1] == LAST_EVENT
    assert json.loads(sent[-2].removeprefix(b"data: "))["sonoray"]["notice"] == "n"
    whole = asyncio.run(complete(Events(*events.script), 60.0))
    assert whole.choices[0].message.content == "左侧"
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (5, 3)
