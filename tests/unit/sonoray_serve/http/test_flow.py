"""How an answer begins, and how one that has begun may end."""

import asyncio
import json
import tracemalloc
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

import numpy as np
import pytest

from sonoray.images.decode import Pixels
from sonoray_serve.http.deadline import Deadline
from sonoray_serve.http.flow import Chat
from sonoray_serve.http.reply import Answer
from sonoray_serve.http.testing import chat_body
from sonoray_serve.messages import (
    EncodedStudy,
    Event,
    Failed,
    Finished,
    ModelCard,
    Piece,
    Sampling,
    Started,
)
from sonoray_serve.problems import ApiError, InternalError, Problem
from sonoray_serve.settings import Limits
from sonoray_serve.shapes.answers import LAST_EVENT, SonoRay
from sonoray_serve.shapes.forms import ChatForm, Head

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
        form=ChatForm(),
        head=Head(id="id", created=1, model="m", has_logprobs=False),
        num_choices=1,
        options=None,
        calibration=None,
        as_stream=True,
        include_usage=False,
        sonoray=SONORAY,
        num_prompt_tokens=5,
        events=events.play(),
        deadline=Deadline.after(limit_s),
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


class Weighed:
    """Vision and engine in one, which weigh the process's memory while the engine is waited for."""

    async def encode(self, images: Sequence[Pixels], digest: str) -> EncodedStudy:
        empty = np.zeros((0,), np.float32)
        return EncodedStudy(tokens=empty, feature_scores=empty, digest="d")

    async def ready(self) -> str:
        return "d"

    async def generate(
        self, study: EncodedStudy, messages: Sequence[dict[str, str]], sampling: Sampling
    ) -> AsyncGenerator[Event, None]:
        await asyncio.sleep(0.3)  # the thread that decoded lets go of its result after it is taken
        self.num_bytes, _ = tracemalloc.get_traced_memory()
        yield Started(num_prompt_tokens=1, scores=(1.0,), selected=(0,), digest="d")


def test_nothing_of_the_body_is_kept_while_the_engine_works():
    noise = np.random.default_rng(0).integers(0, 255, (1200, 1200), dtype=np.uint8)
    data = json.dumps(chat_body([noise], stream=True)).encode()
    card = ModelCard(
        notice="n", digest="d", max_images=1, context_length=256, site_cue=False, width=8
    )
    weighed = Weighed()
    chat = Chat(vision=weighed, engine=weighed, models={"llava-ultra": card}, limits=Limits())

    async def arrive() -> bytes:
        return data + b" "  # a copy that is the request's alone

    async def start() -> tuple[Answer, int]:
        answer = await chat.begin(arrive(), Deadline.after(60))
        return answer, tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        answer, num_bytes = asyncio.run(start())
    finally:
        tracemalloc.stop()
    assert max(weighed.num_bytes, num_bytes) < len(data) // 4
    assert answer.as_stream
