"""A worker that is told to end: the group saves first, and goes on without it.

Schedulers send SIGTERM before they take a process away, and clusters drain a node before they take
it. Both reach this module: the worker's main thread takes the signal (training runs in another
thread, which no signal reaches), and Ray Train's own watcher writes down a drain. The next step
tells all ranks (`Wish.LEAVE`), they save, and Ray Train is told that this was a preemption: it
starts the group again, as large as there is room for, and counts no failure.

Ray Train 2.60 has no public way to declare a preemption or to look for one without waiting for all
ranks, so both go through its context of the worker; a test notices where that changes.
"""

import signal
import threading
import time
from types import FrameType
from typing import Any, NoReturn

from sonoray.errors import JobFailedError

_END_WITHIN_S = 120.0
"""How long a worker that has saved waits for Ray Train to end it."""

_told = threading.Event()


def listen() -> None:
    """Take SIGTERM as a notice from now on; on the main thread of a worker."""
    signal.signal(signal.SIGTERM, _take)


def _take(_number: int, _frame: FrameType | None) -> None:
    _told.set()


def is_told_to_leave() -> bool:
    """Whether this worker is about to be taken away, alone or with its node."""
    context = _context()
    return _told.is_set() or (
        context is not None and context.preemption_context.preemption_info is not None
    )


def leave() -> NoReturn:
    """Wait for Ray Train to end this worker, which has saved.

    Raises:
        JobFailedError: it did not.
    """
    context = _context()
    if context is not None and is_told_to_leave():
        import ray
        from ray.train.v2.api.preemption import PreemptionInfo

        ranks = [context.get_world_rank()]
        context.preemption_context.preemption_info = PreemptionInfo(
            deadline_ms=int(time.time() * 1000),  # it need not wait any longer
            preempted_node_to_ranks={ray.get_runtime_context().get_node_id(): ranks},
        )
    if context is not None:
        time.sleep(_END_WITHIN_S)
    raise JobFailedError(
        "a worker was told to end (SIGTERM); the training is saved, run the command again"
    )


def _context() -> Any | None:  # noqa: ANN401 - Ray's internal TrainContext
    """Ray Train's context of this worker; None in its local mode."""
    from ray.train.v2._internal.execution.context import get_train_context

    try:
        return get_train_context()
    except RuntimeError:
        return None
