"""A pause for Ray Data's scheduling loop, which else takes a core while a consumer is slow.

The loop waits until a task has something to say. Once outputs wait to be read and may not be, since
what is ahead of the consumer has filled its share of the object store, each wait ends at once, and
the loop turns as fast as Python lets it (Ray 2.60). That is the steady state of a training whose
data are larger than that share; any other dataset with a slow consumer may come to it.
"""

import time
from typing import TYPE_CHECKING

from ray.data import DataContext
from ray.data._internal.execution.execution_callback import ExecutionCallback

if TYPE_CHECKING:
    from ray.data._internal.execution.streaming_executor import StreamingExecutor

_PAUSE_S = 0.01
"""Short beside any row that is worth a task."""


class IdlePause(ExecutionCallback):
    """Sleeps after a turn that did not wait, and started, read and handed on nothing."""

    def __init__(self) -> None:
        self._seen: tuple[tuple[int, ...], ...] = ()
        self._ended_s = time.monotonic()

    def on_execution_step(self, executor: "StreamingExecutor") -> None:
        """Called by the loop after each of its turns."""
        done = tuple(
            (
                *(op.metrics.num_inputs_received, op.metrics.num_tasks_submitted),
                *(op.metrics.num_task_outputs_generated, op.metrics.num_outputs_taken),
            )
            for op in executor._topology or ()
        )
        if done == self._seen and time.monotonic() - self._ended_s < _PAUSE_S:
            time.sleep(_PAUSE_S)
        self._seen, self._ended_s = done, time.monotonic()


def pause_idle_loops() -> None:
    """Let the loops of this process's next datasets pause; again changes nothing."""
    context = DataContext.get_current()
    if IdlePause not in context.custom_execution_callback_classes:
        context.custom_execution_callback_classes.append(IdlePause)
