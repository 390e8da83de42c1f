"""Who begins when and who ends how, with a real tiny model, a clock of the test, and no thread."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from llava_ultra.batching.prefix import PrefixStore
from llava_ultra.batching.ragged import RaggedDecoder
from llava_ultra.batching.running import Batch
from llava_ultra.export.assistant import Assistant
from llava_ultra.language.chat import end_id
from sonoray_serve.http.testing import QUESTION, random_study
from sonoray_serve.messages import EncodedStudy, Event, Failed, Finished, Piece, Sampling, Started
from sonoray_serve.problems import InternalError, Problem
from sonoray_serve.schedule.scheduler import Scheduler
from sonoray_serve.schedule.ticket import Ticket

GREEDY = Sampling(
    max_tokens=20, temperature=0.0, top_p=1.0, seed=None, stop=(), timeout_s=60.0, stream=True
)
DIGEST = "d" * 64


@dataclass
class Asked:
    """A ticket and what it was told."""

    ticket: Ticket
    told: list[Event | InternalError] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.told if isinstance(event, Piece))

    @property
    def end(self) -> Event | InternalError:
        assert sum(isinstance(e, Finished | Failed | InternalError) for e in self.told) == 1
        return self.told[-1]


@dataclass
class Desk:
    """A scheduler, its clock, and a way to ask it."""

    scheduler: Scheduler
    assistant: Assistant
    batch: Batch
    clock: list[float]

    def ask(
        self,
        num_images: int = 2,
        question: str = QUESTION,
        sampling: Sampling = GREEDY,
        *,
        deadline: float = 100.0,
        **changes: Any,
    ) -> Asked:
        visual = self.assistant.encode(random_study(num_images))
        study = EncodedStudy(
            tokens=visual.tokens.numpy(),
            feature_scores=visual.feature_scores.numpy(),
            digest=DIGEST,
        )
        told: list[Event | InternalError] = []
        ticket = Ticket(
            study=dataclasses.replace(study, **changes),
            messages=[{"role": "user", "content": question}],
            sampling=sampling,
            deadline=deadline,
            deliver=told.append,
        )
        self.scheduler.add(ticket)
        return Asked(ticket, told)

    def expected(self, num_images: int = 2, question: str = QUESTION, max_tokens: int = 20) -> str:
        visual = self.assistant.encode(random_study(num_images))
        prompt = self.assistant.prepare(visual, [{"role": "user", "content": question}])
        return "".join(self.assistant.stream(prompt, max_tokens=max_tokens))

    def run(self) -> None:
        for _ in range(1_000):
            if self.scheduler.is_idle:
                return
            self.scheduler.tick()
        raise AssertionError("not idle after 1,000 steps")


@pytest.fixture
def make_desk(assistant: Assistant) -> Callable[..., Desk]:
    def make(
        max_rows: int = 4, num_tokens: int = 1024, prompt_tokens: int = 512, prefix_bytes: int = 0
    ) -> Desk:
        probe = RaggedDecoder(assistant.model, max_bytes=10**9, max_rows=1)
        num_bytes = num_tokens * probe.slots.shape.bytes_per_token
        decoder = RaggedDecoder(assistant.model, max_bytes=num_bytes, max_rows=max_rows)
        end = end_id(assistant.tokenizer)
        batch = Batch(decoder, PrefixStore(max_bytes=prefix_bytes), end_id=end)
        clock = [0.0]
        scheduler = Scheduler(
            assistant,
            batch,
            digest=DIGEST,
            prompt_tokens=prompt_tokens,
            stream_interval_s=0.0,
            clock=lambda: clock[0],
        )
        return Desk(scheduler, assistant, batch, clock)

    return make


def begun(asked: Sequence[Asked]) -> list[bool]:
    return [bool(each.told) for each in asked]


def test_requests_join_at_any_step_and_get_their_own_answers(make_desk: Callable[..., Desk]):
    desk = make_desk(max_rows=3, prompt_tokens=16)
    texts = [QUESTION + "左侧" * number for number in range(6)]
    asked = []
    for number, text in enumerate(texts):
        asked.append(desk.ask(1 + number % 3, text))
        desk.scheduler.tick()
        desk.scheduler.tick()
    desk.run()
    for number, text in enumerate(texts):
        assert asked[number].text == desk.expected(1 + number % 3, text)
        assert isinstance(asked[number].end, Finished)
    assert desk.scheduler.counts.num_ended == 6
    assert (desk.scheduler.counts.num_active, desk.scheduler.counts.num_waiting) == (0, 0)


def test_memory_decides_who_begins_in_the_order_of_arrival(make_desk: Callable[..., Desk]):
    desk = make_desk(max_rows=4, num_tokens=256)  # two rows of 128
    long = dataclasses.replace(GREEDY, max_tokens=60)
    asked = [desk.ask(2, sampling=long), desk.ask(2), desk.ask(2), desk.ask(2, sampling=long)]
    desk.scheduler.tick()
    assert begun(asked) == [True, True, False, False]
    counts = desk.scheduler.counts
    assert (counts.num_active, counts.num_waiting) == (2, 2)
    while not asked[2].told:
        desk.scheduler.tick()
    assert isinstance(asked[1].end, Finished)  # the shorter one made room
    desk.run()
    assert [each.text for each in asked] == [
        desk.expected(max_tokens=tokens) for tokens in (60, 20, 20, 60)
    ]


def test_a_long_prompt_does_not_hold_up_those_who_answer(make_desk: Callable[..., Desk]):
    desk = make_desk(prompt_tokens=8)
    first = desk.ask(1)
    while not any(isinstance(event, Piece) for event in first.told):
        desk.scheduler.tick()
    second = desk.ask(4, QUESTION * 4)
    before = desk.scheduler.counts.num_answer_tokens
    num_steps = 0
    while not any(isinstance(event, Piece) for event in second.told) and len(first.told) < 20:
        desk.scheduler.tick()
        num_steps += 1
    assert num_steps > 3
    assert desk.scheduler.counts.num_answer_tokens - before >= num_steps
    desk.run()
    assert second.text == desk.expected(4, QUESTION * 4)


def test_questions_about_one_study_in_the_queue_share_its_reading(make_desk: Callable[..., Desk]):
    desk = make_desk(prefix_bytes=10_000_000)
    first, second = desk.ask(3), desk.ask(3, "左侧还是右侧?")
    desk.run()
    started = first.told[0]
    assert isinstance(started, Started)
    counts = desk.scheduler.counts
    image_tokens = len(started.selected) * desk.assistant.model.config.num_tokens
    assert counts.num_shared_tokens == 1 + image_tokens  # what begins the form, and the images
    assert [first.text, second.text] == [desk.expected(3), desk.expected(3, "左侧还是右侧?")]


def test_time_ends_a_request_wherever_it_is(make_desk: Callable[..., Desk]):
    desk = make_desk(max_rows=1)
    running, waiting, patient = desk.ask(deadline=5.0), desk.ask(deadline=3.0), desk.ask()
    desk.scheduler.tick()
    desk.clock[0] = 3.0
    desk.scheduler.tick()
    assert waiting.told == [Failed(problem=Problem.DEADLINE)]
    assert not isinstance(running.told[-1], Failed)
    desk.clock[0] = 5.0
    desk.run()
    assert running.end == Failed(problem=Problem.DEADLINE)
    assert patient.text == desk.expected()


def test_who_goes_makes_room_at_once(make_desk: Callable[..., Desk]):
    desk = make_desk(max_rows=1)
    running, waiting, last = desk.ask(), desk.ask(), desk.ask()
    desk.scheduler.tick()
    desk.scheduler.cancel(running.ticket)
    desk.scheduler.cancel(waiting.ticket)
    assert desk.batch.num_rows == 0
    desk.scheduler.tick()
    assert begun([waiting, last]) == [False, True]
    desk.run()
    assert last.text == desk.expected()
    desk.scheduler.cancel(last.ticket)  # it has ended; nothing happens
    counts = desk.scheduler.counts
    assert (counts.num_ended, counts.num_cancelled) == (3, 2)


def test_a_client_that_goes_while_its_prompt_is_read_leaves_nothing(make_desk: Callable[..., Desk]):
    desk = make_desk(prompt_tokens=4)
    gone, next_one = desk.ask(4), desk.ask(1)
    desk.scheduler.tick()
    assert desk.batch.reading is not None
    desk.scheduler.cancel(gone.ticket)
    assert desk.batch.reading is None
    desk.run()
    assert next_one.text == desk.expected(1)


def test_what_cannot_be_answered_is_said_and_holds_nobody_up(make_desk: Callable[..., Desk]):
    desk = make_desk()
    context = desk.assistant.context_length
    long = desk.ask(question=QUESTION * context)
    other_model = desk.ask(digest="0" * 64)
    good = desk.ask()
    desk.run()
    assert long.told == [Failed(problem=Problem.CONTEXT_LENGTH_EXCEEDED, limit=context)]
    assert other_model.told == [Failed(problem=Problem.UNAVAILABLE)]
    assert good.text == desk.expected()


def test_a_study_that_is_no_numbers_fails_alone(make_desk: Callable[..., Desk]):
    desk = make_desk()
    first = desk.ask()
    spoiled = desk.ask()
    spoiled.ticket.study.tokens[0, 0, 0] = float("nan")
    desk.run()
    assert isinstance(spoiled.end, InternalError)
    assert first.text == desk.expected()


def test_a_step_that_fails_takes_no_one_along_who_waits(
    make_desk: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch
):
    desk = make_desk(max_rows=2)
    first, second, waiting = desk.ask(), desk.ask(), desk.ask()
    desk.scheduler.tick()

    def spoil() -> None:
        desk.batch._decoder.slots._memory.fill_(float("nan"))
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(desk.batch, "step", spoil)
        desk.scheduler.tick()
    for each in (first, second):
        assert isinstance(each.end, InternalError)
        assert str(each.end).startswith("ZeroDivisionError at ")
    assert desk.batch.num_rows == 0
    desk.run()
    assert waiting.text == desk.expected()


def test_a_prompt_that_fails_while_it_is_read_fails_alone(
    make_desk: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch
):
    desk = make_desk(prompt_tokens=1000)
    first = desk.ask()
    desk.scheduler.tick()
    second = desk.ask()
    with monkeypatch.context() as patch:
        patch.setattr(desk.batch, "read", lambda _: 1 / 0)
        desk.scheduler.tick()
    desk.run()
    assert isinstance(second.end, InternalError)
    assert first.text == desk.expected()


def test_failures_one_after_the_other_are_counted_until_something_succeeds(
    make_desk: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch
):
    desk = make_desk()
    with monkeypatch.context() as patch:
        patch.setattr(desk.batch, "read", lambda _: 1 / 0)
        for number in range(1, 4):
            desk.ask()
            desk.run()
            assert desk.scheduler.failures_in_a_row == number
    again = desk.ask()
    desk.scheduler.tick()
    assert desk.scheduler.failures_in_a_row == 0
    with monkeypatch.context() as patch:
        patch.setattr(desk.batch, "step", lambda: 1 / 0)
        desk.scheduler.tick()
    assert isinstance(again.end, InternalError)
    assert desk.scheduler.failures_in_a_row == 1


def test_a_failure_of_the_scheduler_itself_is_told_to_everybody(make_desk: Callable[..., Desk]):
    desk = make_desk(max_rows=1)
    asked = [desk.ask(), desk.ask()]
    desk.scheduler.tick()
    desk.scheduler.fail(InternalError("somewhere"))
    assert [str(each.end) for each in asked] == ["somewhere"] * 2
    assert desk.scheduler.is_idle
    assert desk.batch.num_rows == 0


def test_pieces_come_no_more_often_than_wanted_and_whole_answers_once(
    make_desk: Callable[..., Desk],
):
    desk = make_desk()
    desk.scheduler._stream_interval_s = 10.0
    streamed = desk.ask()
    whole = desk.ask(sampling=dataclasses.replace(GREEDY, stream=False))
    desk.run()
    assert [type(event) for event in whole.told] == [Started, Piece, Finished]
    pieces = [event for event in streamed.told if isinstance(event, Piece)]
    assert len(pieces) == 2  # the first at once, the rest at the end: the clock stood still
    assert streamed.text == whole.text == desk.expected()


def test_work_in_hand_is_a_share_of_what_is_decoded_at_once(make_desk: Callable[..., Desk]):
    few_slots, little_memory = make_desk(max_rows=2), make_desk(max_rows=8, num_tokens=256)
    short = dataclasses.replace(GREEDY, max_tokens=4)
    asked = [few_slots.ask(sampling=short) for _ in range(3)]
    few_slots.scheduler.tick()
    assert few_slots.scheduler.counts.work == 1.5  # two are decoded, one waits
    while not few_slots.scheduler.is_idle:
        few_slots.scheduler.tick()
    assert [type(each.end) for each in asked] == [Finished] * 3
    assert few_slots.scheduler.counts.work == 0
    little_memory.ask(sampling=dataclasses.replace(GREEDY, max_tokens=160))
    little_memory.scheduler.tick()
    assert 160 / 256 < little_memory.scheduler.counts.work < 1
