import os
import time

import pytest

from sonoray.guarded import GuardedPool
from sonoray.images import RejectedImageError


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
        (int, "Secret^Name", "unreadable: ValueError in sonoray.guarded"),
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
