"""A study that the engine knows, has forgotten, or is given."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence

import numpy as np
import pytest

from sonoray.images.decode import Pixels
from sonoray_serve.asking.studies import (
    AskedStudy,
    KnownStudies,
    Seen,
    stored_study_name,
    study_name,
)
from sonoray_serve.http.deadline import Deadline
from sonoray_serve.http.flow import Chat
from sonoray_serve.http.testing import chat_body, random_study
from sonoray_serve.messages import (
    EncodedStudy,
    Event,
    Finished,
    Forgotten,
    KnownStudy,
    ModelCard,
    Piece,
    Sampling,
    Started,
    Study,
)
from sonoray_serve.settings import Limits

GREEDY = Sampling(
    max_tokens=8, temperature=0.0, top_p=1.0, seed=None, stop=(), timeout_s=60.0, stream=True
)
MESSAGES = [{"role": "user", "content": "?"}]
SEEN = Seen(is_transparent=(False,))


def encoded(name: bytes = b"n") -> EncodedStudy:
    tokens = np.zeros((1, 4, 8), np.float32)
    return EncodedStudy(tokens=tokens, feature_scores=tokens[0, 0, :1], digest="d", name=name)


class Remembering:
    """Vision and engine in one: keeps studies by name unless told not to, and counts calls."""

    def __init__(self, *, keeps: bool = True) -> None:
        self.keeps = keeps
        self.kept: set[bytes] = set()
        self.asked: list[str] = []
        self.num_encoded = 0

    async def encode(self, images: Sequence[Pixels], digest: str) -> EncodedStudy:
        self.num_encoded += 1
        return encoded(b"")

    async def ready(self) -> str:
        return "d"

    async def generate(
        self, study: Study, messages: Sequence[dict[str, str]], sampling: Sampling
    ) -> AsyncGenerator[Event, None]:
        self.asked.append(type(study).__name__)
        if isinstance(study, KnownStudy) and study.name not in self.kept:
            yield Forgotten()
            return
        if self.keeps:
            self.kept.add(study.name)
        yield Started(num_prompt_tokens=1, scores=(1.0,), selected=(0,), digest="d")
        yield Piece(text="a")
        yield Finished(reason="stop", num_tokens=1)


def test_a_name_is_of_all_images_in_their_order_and_of_the_model():
    names = {
        study_name(images, digest)
        for images in ([b"a", b"b"], [b"b", b"a"], [b"ab"], [b"a"], [b"a", b"b", b"b"])
        for digest in ("d" * 64, "e" * 64)
    }
    assert len(names) == 10
    assert study_name([b"a", b"b"], "d" * 64) in names


def test_names_are_bounded_and_those_asked_about_last_stay():
    known = KnownStudies(max_names=2)
    for name in (b"a", b"b"):
        known.add(name, SEEN)
    assert known.find(b"a") is SEEN
    known.add(b"c", SEEN)
    assert [known.find(name) is not None for name in (b"a", b"b", b"c")] == [True, False, True]


def test_an_engine_that_has_forgotten_is_given_the_study_once():
    engine = Remembering()

    async def encode() -> tuple[EncodedStudy, Seen]:
        engine.num_encoded += 1
        await asyncio.sleep(0.01)
        return encoded(), SEEN

    async def ask() -> list[list[Event]]:
        asked = AskedStudy(engine, KnownStudy(name=b"n", digest="d"), SEEN, encode=encode)

        async def one() -> list[Event]:
            return [event async for event in asked.generate(MESSAGES, GREEDY)]

        return await asyncio.gather(one(), one())

    for events in asyncio.run(ask()):
        assert [type(event) for event in events] == [Started, Piece, Finished]
    assert engine.num_encoded == 1
    assert engine.asked.count("EncodedStudy") == 2


def test_a_known_study_lets_go_of_its_images_when_it_is_told_to():
    engine = Remembering()
    engine.kept.add(b"n")

    async def encode() -> tuple[EncodedStudy, Seen]:
        pytest.fail("the engine has it")

    async def ask() -> None:
        asked = AskedStudy(engine, KnownStudy(name=b"n", digest="d"), SEEN, encode=encode)
        events = asked.generate(MESSAGES, GREEDY)
        await anext(events)
        asked.release()
        assert asked._encode is None
        await events.aclose()

    asyncio.run(ask())
    assert engine.asked == ["KnownStudy"]


def test_of_several_questions_one_may_meet_an_engine_that_does_not_know_the_study():
    knowing, other = Remembering(), Remembering()
    knowing.kept.add(b"n")

    class Either(Remembering):
        """Two replicas of the engine, asked in turn."""

        def generate(
            self, study: Study, messages: Sequence[dict[str, str]], sampling: Sampling
        ) -> AsyncGenerator[Event, None]:
            self.asked.append(type(study).__name__)
            return (knowing, other)[len(self.asked) > 1].generate(study, messages, sampling)

    partial = Seen(is_transparent=(False,), left_out={"fetch_failed": 1})

    async def encode() -> tuple[EncodedStudy, Seen]:
        return encoded(), partial

    async def ask() -> AskedStudy:
        engine = Either()
        asked = AskedStudy(engine, KnownStudy(name=b"n", digest="d"), SEEN, encode=encode)
        for _ in range(2):
            events = [event async for event in asked.generate(MESSAGES, GREEDY)]
            assert [type(event) for event in events] == [Started, Piece, Finished]
        assert engine.asked == ["KnownStudy", "KnownStudy", "EncodedStudy"]
        return asked

    asked = asyncio.run(ask())
    assert asked.seen is partial  # what was seen the second time is what is told


def test_a_stored_study_is_named_by_what_is_shown_of_it():
    names = {
        stored_study_name(uids, digest)
        for uids in (["1.2", "1.2.1"], ["1.2", "1.2.1", "1.2.2"], ["1.3", "1.2.1"], ["1.2"])
        for digest in ("d" * 64, "e" * 64)
    }
    assert len(names) == 8


@pytest.mark.parametrize("keeps", [True, False])
def test_a_second_question_about_a_study_is_its_name(keeps: bool):
    engine = Remembering(keeps=keeps)
    card = ModelCard(
        notice="n", digest="d", max_images=4, context_length=256, site_cue=False, width=8
    )
    chat = Chat(vision=engine, engine=engine, models={"llava-ultra": card}, limits=Limits())

    async def ask(number: int, question: str) -> str:
        content = json.dumps(chat_body(random_study(1, seed=number), question)).encode()

        async def arrive() -> bytes:
            return content

        answer = await chat.begin(arrive(), Deadline.after(60))
        assert [use.transparent for use in answer.sonoray.images] == [False]
        whole = await answer.complete()
        text: str = whole.model_dump()["choices"][0]["message"]["content"]
        return text

    async def talk() -> list[str]:
        return [await ask(*each) for each in ((1, "?"), (1, "!"), (2, "?"))]

    assert asyncio.run(talk()) == ["a", "a", "a"]
    again = ["KnownStudy"] if keeps else ["KnownStudy", "EncodedStudy"]
    assert engine.asked == ["EncodedStudy", *again, "EncodedStudy"]
    assert engine.num_encoded == (2 if keeps else 3)
