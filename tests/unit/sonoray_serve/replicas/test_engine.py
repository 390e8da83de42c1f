"""The engine's slots, counts and endings, with a real tiny model."""

import asyncio
import dataclasses
import time
from collections.abc import Coroutine, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from llava_ultra.decoding.rules import build_decoding
from llava_ultra.decoding.step import iter_tokens, read_prompts
from llava_ultra.export.assistant import Assistant
from llava_ultra.language.chat import END, token_id
from llava_ultra.parameters.precision_names import AnswerPrecision
from llava_ultra.parameters.products import cpu_has_bfloat16
from sonoray.errors import CheckpointError, ServingError
from sonoray_serve.http.testing import QUESTION, random_study
from sonoray_serve.messages import (
    EncodedStudy,
    Event,
    Failed,
    Finished,
    Forgotten,
    KnownStudy,
    Piece,
    Sampling,
    Started,
)
from sonoray_serve.problems import InternalError, Problem
from sonoray_serve.replicas.engine import Engine
from sonoray_serve.replicas.loading import ModelSource
from sonoray_serve.replicas.vision import Vision
from sonoray_serve.settings import Batching

MESSAGES = [{"role": "user", "content": QUESTION}]
GREEDY = Sampling(
    max_tokens=32, temperature=0.0, top_p=1.0, seed=None, stop=(), timeout_s=60.0, stream=True
)
LONG = dataclasses.replace(GREEDY, max_tokens=100_000)


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 60))


def encoded(vision: Vision, num_images: int = 3) -> EncodedStudy:
    study = run(vision.encode(random_study(num_images), run(vision.ready())))
    assert isinstance(study, EncodedStudy)
    return study


async def collect(
    engine: Engine,
    study: EncodedStudy | KnownStudy,
    sampling: Sampling,
    messages: Sequence[dict[str, str]] = MESSAGES,
) -> list[Event]:
    return [event async for event in engine.generate(study, messages, sampling)]


async def idle(engine: Engine) -> Any:
    while (load := await engine.load()).num_active:
        await asyncio.sleep(0.005)
    return load


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Piece))


def test_study_travels_as_plain_arrays(vision: Vision, assistant: Assistant):
    study = encoded(vision)
    visual = assistant.encode(random_study(3))
    assert type(study.tokens) is type(study.feature_scores) is np.ndarray
    np.testing.assert_array_equal(study.tokens, visual.tokens.numpy())
    np.testing.assert_array_equal(study.feature_scores, visual.feature_scores.numpy())


def test_answer_is_the_assistants_own(vision: Vision, engine: Engine, assistant: Assistant):
    events = run(collect(engine, encoded(vision), GREEDY))
    prompt = assistant.prepare(assistant.encode(random_study(3)), MESSAGES)
    started, end = events[0], events[-1]
    assert isinstance(started, Started)
    assert isinstance(end, Finished)
    assert text_of(events) == "".join(assistant.stream(prompt, max_tokens=32))
    assert started.num_prompt_tokens == prompt.num_prompt_tokens
    assert list(started.scores) == pytest.approx(prompt.scores)
    assert list(started.selected) == prompt.selected


def test_an_answer_that_is_not_streamed_is_one_piece(vision: Vision, engine: Engine):
    study = encoded(vision)
    streamed = run(collect(engine, study, GREEDY))
    whole = run(collect(engine, study, dataclasses.replace(GREEDY, stream=False)))
    assert [type(event) for event in whole] == [Started, Piece, Finished]
    assert text_of(whole) == text_of(streamed)
    assert whole[-1] == streamed[-1]


def test_token_count_and_reason_are_the_decoders(
    vision: Vision, engine: Engine, assistant: Assistant
):
    study = encoded(vision)
    prompt = assistant.prepare(assistant.encode(random_study(3)), MESSAGES)
    end_id = token_id(assistant.tokenizer, END)
    mask = torch.ones(prompt.inputs_embeds.shape[:2], dtype=torch.bool)
    reasons = set()
    for seed in range(40):
        decoding = build_decoding(max_tokens=40, temperature=2.0, seed=seed)
        ids = [
            int(token)
            for token in iter_tokens(
                assistant.model,
                read_prompts(assistant.model, prompt.inputs_embeds, mask),
                decoding,
                end_id=end_id,
            )
        ]
        sampling = dataclasses.replace(GREEDY, max_tokens=40, temperature=2.0, seed=seed)
        end = run(collect(engine, study, sampling))[-1]
        reason = "stop" if ids[-1] == end_id else "length"
        assert end == Finished(reason=reason, num_tokens=len(ids))
        reasons.add(reason)
        if reasons == {"stop", "length"}:
            return
    pytest.fail(f"all answers ended with {reasons}; the test saw only one way")


def test_stop_text_ends_the_answer_before_itself(vision: Vision, engine: Engine):
    study = encoded(vision)
    whole = text_of(run(collect(engine, study, GREEDY)))
    stop = whole[len(whole) // 2 :][:3]
    events = run(collect(engine, study, dataclasses.replace(GREEDY, stop=(stop,))))
    assert text_of(events) == whole[: whole.index(stop)]
    end = events[-1]
    assert isinstance(end, Finished)
    assert end.reason == "stop"


def test_what_a_chat_template_refuses_is_said_and_not_taken_for_length(
    vision: Vision, engine: Engine
):
    engine._scheduler._answerers[engine._digest].tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    )
    secret = {"role": "system", "content": "patient-name-canary"}
    (failed,) = run(collect(engine, encoded(vision), GREEDY, [secret, *MESSAGES]))
    assert failed.problem is Problem.CONVERSATION_NOT_ACCEPTED
    assert "does not take system, user messages (no system role)" in failed.detail
    assert "canary" not in failed.detail
    (long,) = run(
        collect(engine, encoded(vision), GREEDY, [{"role": "user", "content": "a" * 999}])
    )
    assert long == Failed(problem=Problem.CONTEXT_LENGTH_EXCEEDED, limit=256)


def test_closing_the_iterator_stops_the_decoder_and_frees_the_slot(vision: Vision, engine: Engine):
    study = encoded(vision)

    async def leave_early() -> None:
        answer = engine.generate(study, MESSAGES, LONG)
        assert isinstance(await anext(answer), Started)
        assert isinstance(await anext(answer), Piece)
        assert (await engine.load()).num_active == 1
        await answer.aclose()
        load = await idle(engine)
        assert (load.num_active, load.num_ended, load.num_cancelled) == (0, 1, 1)
        assert isinstance((await collect(engine, study, GREEDY))[-1], Finished)

    run(leave_early())


def test_who_has_seen_the_end_finds_the_slot_free(vision: Vision, engine: Engine):
    study = encoded(vision)

    async def ask() -> None:
        async for event in engine.generate(study, MESSAGES, GREEDY):
            if isinstance(event, Finished):
                assert (await engine.load()).num_active == 0

    for _ in range(20):  # each in an event loop that is closed right after the answer
        run(ask())


def test_cancelling_the_reader_frees_the_slot(vision: Vision, engine: Engine):
    study = encoded(vision)

    async def cancel() -> None:
        reader = asyncio.create_task(collect(engine, study, LONG))
        while not (await engine.load()).num_active:
            await asyncio.sleep(0.001)
        reader.cancel()
        assert (await idle(engine)).num_cancelled == 1

    run(cancel())


def test_slots_bound_the_decoders(vision: Vision, source: ModelSource):
    study = encoded(vision)
    engine = Engine(source, Batching(max_answers=2))

    async def crowd() -> int:
        answers = [asyncio.create_task(collect(engine, study, GREEDY)) for _ in range(6)]
        most = 0
        while not all(answer.done() for answer in answers):
            most = max(most, (await engine.load()).num_active)
            await asyncio.sleep(0.0005)
        texts = {text_of(await answer) for answer in answers}
        assert len(texts) == 1
        return most

    assert run(crowd()) == 2


def test_event_loop_stays_free_while_the_decoder_works(vision: Vision, engine: Engine):
    study = encoded(vision)

    async def watch() -> int:
        answer = asyncio.create_task(collect(engine, study, GREEDY))
        ticks = 0
        while not answer.done():
            ticks += 1
            await asyncio.sleep(0.001)
        return ticks

    assert run(watch()) >= 5


def test_time_ends_an_answer_that_nobody_cancels(vision: Vision, engine: Engine):
    events = run(collect(engine, encoded(vision), dataclasses.replace(LONG, timeout_s=0.0)))
    assert events[-1] == Failed(problem=Problem.DEADLINE)
    assert run(idle(engine)).num_ended == 1


def test_too_long_conversation_is_refused_with_the_context(
    vision: Vision, engine: Engine, assistant: Assistant
):
    messages = [{"role": "user", "content": QUESTION * assistant.context_length}]

    async def ask() -> list[Event]:
        return [event async for event in engine.generate(encoded_study, messages, GREEDY)]

    encoded_study = encoded(vision)
    expected = Failed(problem=Problem.CONTEXT_LENGTH_EXCEEDED, limit=assistant.context_length)
    assert run(ask()) == [expected]


def test_study_of_another_model_is_refused(vision: Vision, engine: Engine):
    study = dataclasses.replace(encoded(vision), digest="0" * 64)
    assert run(collect(engine, study, GREEDY)) == [Failed(problem=Problem.UNAVAILABLE)]


def test_a_crash_is_contained_and_frees_the_slot(
    vision: Vision, engine: Engine, caplog: pytest.LogCaptureFixture
):
    study = encoded(vision)
    broken = dataclasses.replace(study, tokens=study.tokens[..., :-1])

    async def crash() -> None:
        with pytest.raises(InternalError, match="RuntimeError at"):
            await collect(engine, broken, GREEDY)
        assert (await idle(engine)).num_ended == 1
        assert isinstance((await collect(engine, study, GREEDY))[-1], Finished)

    run(crash())
    run(engine.check_health())
    assert QUESTION not in caplog.text
    assert caplog.text.count("request failed") == 1


def test_a_decoder_that_fails_at_every_step_makes_the_replica_unhealthy(
    vision: Vision, engine: Engine
):
    study = encoded(vision)
    engine._scheduler._batch.read = lambda _: 1 / 0  # type: ignore[assignment, method-assign]

    async def ask() -> None:
        for _ in range(3):
            await engine.check_health()
            with pytest.raises(InternalError, match="ZeroDivisionError at"):
                await collect(engine, study, GREEDY)
        with pytest.raises(ServingError, match="has to be replaced"):
            await engine.check_health()

    run(ask())


def test_vision_refuses_what_the_model_cannot_take(vision: Vision):
    assert run(vision.encode([], run(vision.ready()))) == Failed(problem=Problem.IMAGE_NOT_ACCEPTED)


@pytest.mark.parametrize(
    "precision",
    [
        "trained",
        pytest.param(
            "bfloat16",
            marks=pytest.mark.skipif(not cpu_has_bfloat16(), reason="this CPU has no bfloat16"),
        ),
    ],
)
def test_health_check_finds_changed_towers_and_does_not_forget_it(
    source: ModelSource, precision: AnswerPrecision
):
    vision = Vision(
        dataclasses.replace(source, precision=precision),
        num_threads=1,
        weights_check_period_s=1e-9,
        image_bytes=0,
    )
    time.sleep(0.001)
    run(vision.check_health())
    with torch.no_grad():
        next(vision._encoder.towers["clip"].parameters()).add_(1)
    for period_s in (1e-9, 300, 300):  # Ray Serve acts on three failures in a row
        vision._weights_check_period_s = period_s
        with pytest.raises(CheckpointError, match="clip tower in memory has digest"):
            run(vision.check_health())


def test_answers_that_are_decoded_together_are_each_its_own(
    vision: Vision, source: ModelSource, assistant: Assistant
):
    engine = Engine(source, Batching(max_answers=4, prompt_tokens_per_step=24))
    studies = {count: encoded(vision, count) for count in (1, 2, 4)}
    asked = [
        (count, QUESTION[: 3 + 5 * number], 8 + 7 * number)
        for number, count in enumerate((1, 4, 2, 1, 2, 4, 1, 2, 4, 2))
    ]

    async def ask(number: int) -> str:
        count, question, max_tokens = asked[number]
        await asyncio.sleep(0.01 * number)
        sampling = dataclasses.replace(GREEDY, max_tokens=max_tokens)
        messages = [{"role": "user", "content": question}]
        return text_of(await collect(engine, studies[count], sampling, messages))

    async def crowd() -> list[str]:
        return await asyncio.gather(*(ask(number) for number in range(len(asked))))

    texts = run(crowd())
    for text, (count, question, max_tokens) in zip(texts, asked, strict=True):
        visual = assistant.encode(random_study(count))
        prompt = assistant.prepare(visual, [{"role": "user", "content": question}])
        assert text == "".join(assistant.stream(prompt, max_tokens=max_tokens))
    assert len(set(texts)) > 5


def test_memory_that_holds_no_context_is_refused_in_one_line(source: ModelSource):
    with pytest.raises(ServingError, match=r"serve\.batching does not fit .* give at least"):
        Engine(source, Batching(key_value_bytes=1000))


def test_a_known_study_is_answered_as_the_study_itself(vision: Vision, source: ModelSource):
    engine = Engine(source, Batching())
    study = dataclasses.replace(encoded(vision), name=b"n")
    known = KnownStudy(name=b"n", digest=study.digest)
    assert run(collect(engine, known, GREEDY)) == [Forgotten()]
    events = run(collect(engine, study, GREEDY))
    again = run(collect(engine, known, GREEDY))
    assert text_of(again) == text_of(events)
    assert (again[0], again[-1]) == (events[0], events[-1])
    # the images and the words before them were not read again
    assert run(engine.load()).num_shared_tokens > 0
    assert run(collect(engine, KnownStudy(name=b"m", digest=study.digest), GREEDY)) == [Forgotten()]


@pytest.mark.parametrize(("name", "study_bytes"), [(b"", 1_000_000), (b"n", 0)])
def test_a_study_without_a_name_or_room_is_not_kept(
    vision: Vision, source: ModelSource, name: bytes, study_bytes: int
):
    engine = Engine(source, Batching(study_bytes=study_bytes))
    study = dataclasses.replace(encoded(vision), name=name)
    assert isinstance(run(collect(engine, study, GREEDY))[-1], Finished)
    known = KnownStudy(name=name, digest=study.digest)
    assert run(collect(engine, known, GREEDY)) == [Forgotten()]


def test_events_that_come_together_leave_together(vision: Vision, engine: Engine):
    study = encoded(vision)

    async def batches(sampling: Sampling) -> list[tuple[Event, ...]]:
        return [each async for each in engine.batches(study, MESSAGES, sampling)]

    whole = run(batches(dataclasses.replace(GREEDY, stream=False)))
    assert [[type(event) for event in each] for each in whole] == [[Started, Piece, Finished]]
    several = dataclasses.replace(
        GREEDY, stream=False, num_choices=2, temperature=1.0, seed=1, max_tokens=9
    )
    assert len(run(batches(several))) == 1
    at_once = run(engine.answer(study, MESSAGES, dataclasses.replace(GREEDY, stream=False)))
    assert at_once == whole[0]
    streamed = run(batches(GREEDY))
    assert [type(event) for event in streamed[0]][:2] == [Started, Piece]
    assert text_of([event for each in streamed for event in each]) == text_of(list(whole[0]))
