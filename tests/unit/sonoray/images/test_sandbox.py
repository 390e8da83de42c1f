import os
import signal
import time
from pathlib import Path

import pytest

from sonoray.images.decode import RejectedImageError
from sonoray.images.sandbox import GuardedPool


@pytest.fixture(scope="module")
def pool():
    with GuardedPool(workers=1, memory_bytes=400_000_000, timeout_s=5) as running:
        yield running


@pytest.mark.parametrize(
    ("function", "argument", "reason"),
    [
        (bytearray, 10**10, "out_of_memory"),
        (os._exit, 3, "decoder_crashed: the process ended with 3"),
        (time.sleep, 600, "timeout: not done after 5 s"),
        (int, "Secret^Name", "unreadable: ValueError in sonoray.images.sandbox"),
    ],
)
def test_a_task_that_fails_is_rejected_and_the_next_one_runs(pool, function, argument, reason):
    process = pool.submit(os.getpid).result()
    with pytest.raises(RejectedImageError, match=reason) as caught:
        pool.submit(function, argument).result()
    assert "Secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (pool.submit(os.getpid).result() == process) is (function is int)


def test_work_is_done_elsewhere_and_its_result_comes_back(pool):
    assert pool.submit(os.getpid).result() != os.getpid()
    assert pool.submit(sorted, [3, 1, 2], reverse=True).result() == [3, 2, 1]


def test_an_interrupt_of_all_processes_is_the_callers_alone(pool):
    """As a terminal sends it; the caller ends the pool, or goes on."""
    process = pool.submit(os.getpid).result()
    os.kill(process, signal.SIGINT)
    assert pool.submit(os.getpid).result() == process


def test_an_interrupted_block_ends_its_processes_and_raises_nothing_else():
    running = GuardedPool(workers=4, memory_bytes=400_000_000, timeout_s=600)
    process = running.submit(os.getpid).result()
    tasks = [running.submit(time.sleep, 600) for _ in range(8)]  # most have no process yet
    running.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert all(task.cancelled() or task.exception() is not None for task in tasks)
    assert not Path(f"/proc/{process}").exists()
