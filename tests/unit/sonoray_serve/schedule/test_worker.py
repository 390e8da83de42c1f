"""The thread that runs a scheduler: it comes, goes, and survives what the scheduler does."""

import threading
import time
from collections.abc import Callable
from typing import Any, cast

from sonoray_serve.problems import InternalError
from sonoray_serve.schedule.meters import Counts
from sonoray_serve.schedule.scheduler import Scheduler
from sonoray_serve.schedule.ticket import Ticket
from sonoray_serve.schedule.worker import Worker


class Script:
    """Stands for a scheduler: each ticket takes two steps; one named `broken` fails in the second.

    The real one is tested with the real model; here the thread around it is.
    """

    def __init__(self) -> None:
        self.counts = Counts()
        self.left: dict[Any, int] = {}
        self.threads: set[str] = set()
        self.failures: list[str] = []
        self.failures_in_a_row = 0
        self.is_beyond_help = False

    @property
    def is_idle(self) -> bool:
        return not self.left

    def add(self, ticket: Any) -> None:
        self.left[ticket] = 2

    def cancel(self, ticket: Any) -> None:
        if self.left.pop(ticket, None) is not None:
            self.counts.num_cancelled += 1

    def tick(self) -> None:
        self.threads.add(threading.current_thread().name)
        for ticket in tuple(self.left):
            self.left[ticket] -= 1
            if not self.left[ticket]:
                if ticket == "broken":
                    raise ValueError("a secret")
                del self.left[ticket]
                self.counts.num_ended += 1

    def fail(self, error: InternalError) -> None:
        if self.is_beyond_help:
            raise RuntimeError("CUDA error: a secret")
        self.failures.append(str(error))
        self.left.clear()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def make(script: Script) -> tuple[Worker, list[int]]:
    shown: list[int] = []
    worker = Worker(cast("Scheduler", script), show=lambda c: shown.append(c.num_ended))
    return worker, shown


def test_one_thread_does_the_work_and_ends_with_it():
    script = Script()
    worker, shown = make(script)
    for number in range(50):
        worker.submit(cast("Ticket", f"ticket {number}"))
        if number % 10 == 0:
            wait_for(lambda: not worker._is_running)
    wait_for(lambda: not worker._is_running)
    assert script.counts.num_ended == 50
    assert len(script.threads) == 1
    assert shown[-1] == 50  # whoever looks while it is quiet sees how it stands


def test_a_failure_is_told_without_its_message_and_the_next_request_is_served():
    script = Script()
    worker, _ = make(script)
    worker.submit(cast("Ticket", "broken"))
    wait_for(lambda: not worker._is_running)
    assert len(script.failures) == 1
    assert script.failures[0].startswith("ValueError at test_worker.py:")
    assert "secret" not in script.failures[0]
    worker.submit(cast("Ticket", "good"))
    wait_for(lambda: not worker._is_running)
    assert script.counts.num_ended == 1


def test_a_decoder_that_gives_nothing_any_more_is_said_to_be_lost():
    script = Script()
    worker, _ = make(script)
    assert not worker.is_lost
    script.failures_in_a_row = 3
    assert worker.is_lost
    script.failures_in_a_row = 0
    script.is_beyond_help = True
    worker.submit(cast("Ticket", "broken"))
    wait_for(lambda: worker.is_lost)


def test_a_cancellation_from_another_thread_arrives():
    script = Script()
    worker, _ = make(script)
    with worker._lock:  # the thread cannot look before both are there
        worker._orders += [lambda: script.add("a"), lambda: script.cancel("a")]
        worker._is_running = True
    worker._pool.submit(worker._run)
    wait_for(lambda: not worker._is_running)
    assert (script.counts.num_cancelled, script.counts.num_ended) == (1, 0)
