"""The MLflow end of a training: the values of each report, from Ray Train's controller.

Ray Train v2 rejects MLflow's old logger and calls a `UserCallback` on the controller, which
outlives its worker groups: that is why a retried training stays one run. The driver makes the run
and closes it (`runs.held_run`); this class only adds to it. It travels as plain values, since
Ray sends the run configuration, and with it the callback, to every new worker group.

A report is written to the outbox, which takes milliseconds, and a thread sends it. A server that is
slow or away is not noticed by the training. The thread tries again after 5 s, then after twice as
long each time, up to a minute; what is left when the controller ends is sent by the driver.

What a training has told is not told again: after a restart from a checkpoint it comes by the same
steps a second time, with the same values, and a curve has each point once. Where it goes on with
another number of workers, a step that is done again has values of its own, and the curve both.
"""

import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray.train import Checkpoint, UserCallback

from sonoray.errors import TrackingError
from sonoray.tracking.connection import Store, shown_uri
from sonoray.tracking.delivery import deliver, outbox_of
from sonoray.tracking.outbox import Outbox, Point, num_failures, told_points
from sonoray.tracking.params import not_finite, scalar_metrics

RATE_METRIC = "steps_per_s"
ANSWERS = "answers"
"""Key of a report that holds sample answers, a table of rows and no metric."""
_FIRST_WAIT_S, _LONGEST_WAIT_S = 5.0, 60.0

_logger = logging.getLogger(__name__)


class MlflowRunCallback(UserCallback):
    """Log every `ray.train.report` of one training to one MLflow run.

    The metrics of rank 0 count (reduce over the ranks before reporting). Their `step` is the MLflow
    step; a report without one is numbered on from the last report of the run. The newest checkpoint
    is linked by the tag `checkpoint` and never uploaded. Values that are not finite are left out
    and named by the tag `not_finite`.
    """

    def __init__(self, *, store: Store, storage_path: str | Path, name: str) -> None:
        self._uri = store.uri
        self._artifact_root = store.artifact_root
        self._storage_path = str(storage_path)
        self._name = name
        self._outbox = outbox_of(storage_path, name)
        self._courier: _Courier | None = None
        self._told: set[Point] | None = None
        self._step = -1
        self._told_at: tuple[int, float] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as plain values: connections and threads stay in their process."""
        return _rebuild, (self._uri, self._artifact_root, self._storage_path, self._name)

    def after_report(
        self,
        run_context: Any,  # noqa: ANN401 - Ray's internal TrainRunContext
        metrics: list[dict[str, Any]],
        checkpoint: Checkpoint | None,
    ) -> None:
        """Add the metrics of rank 0 and the link to the checkpoint."""
        if self._told is None:
            self._told = told_points(entry for entry, _ in self._outbox.entries())
            self._step = max((step for _, step, _ in self._told), default=-1)
        values = dict(metrics[0])
        answers = values.pop(ANSWERS, ())
        numbers = scalar_metrics(values)
        step = int(numbers.pop("step", self._step + 1))
        tags = {}
        if checkpoint is not None:
            tags = {"checkpoint": checkpoint.path, "checkpoint.step": str(step)}
        if wrong := not_finite(values):
            tags["not_finite"] = f"{', '.join(wrong)} at step {step}"
        new = {(key, step, value) for key, value in numbers.items()} - self._told
        rate = self._rate(step)
        if new:
            new |= rate
        self._told |= new
        self._step = max(self._step, step)
        now_ms = int(time.time() * 1000)
        points = [[key, value, now_ms, step] for key, step, value in sorted(new)]
        if points or tags:
            self._add({"kind": "metrics", "points": points, "tags": tags})
        if answers:
            self._add({"kind": "answers", "step": step, "rows": list(answers)})

    def after_exception(
        self,
        run_context: Any,  # noqa: ANN401 - Ray's internal TrainRunContext
        worker_exceptions: Mapping[int, Exception],
    ) -> None:
        """Count a failed attempt and name its kind (never its text, which may quote data)."""
        number = 1 + num_failures(entry for entry, _ in self._outbox.entries())
        kinds = ", ".join(
            f"rank {rank}: {_kind(error)}" for rank, error in sorted(worker_exceptions.items())
        )
        self._told_at = None  # the time of a restart is no time of steps
        self._add({"kind": "failure", "number": number, "kinds": kinds[:500]})

    def _rate(self, step: int) -> set[Point]:
        """Steps a second since the report before, in this process."""
        before, now = self._told_at, time.monotonic()
        self._told_at = (step, now)
        if before is None or now <= before[1] or step <= before[0]:
            return set()
        return {(RATE_METRIC, step, (step - before[0]) / (now - before[1]))}

    def _add(self, entry: dict[str, Any]) -> None:
        self._outbox.add(entry)
        if self._courier is None:
            store = Store(uri=self._uri, client=None, artifact_root=self._artifact_root)
            self._courier = _Courier(self._outbox, store)
            self._courier.start()
        self._courier.wake()


class _Courier(threading.Thread):
    """Sends an outbox whenever something was added, and again where that failed."""

    def __init__(self, outbox: Outbox, store: Store) -> None:
        super().__init__(name="mlflow courier", daemon=True)
        self._outbox = outbox
        self._store = store
        self._added = threading.Event()

    def wake(self) -> None:
        """Say that something was added."""
        self._added.set()

    def run(self) -> None:
        """Send for as long as the process lives."""
        wait_s = _FIRST_WAIT_S
        while True:
            self._added.wait()
            self._added.clear()
            if not self._outbox.num_waiting():  # the driver was first
                continue
            try:
                self._store = self._store.again()
                deliver(self._outbox, self._store)
            except TrackingError as error:
                _logger.warning(
                    "training goes on without MLflow %s, %d entries wait, next try in %.0f s: %s",
                    shown_uri(self._store.uri),
                    self._outbox.num_waiting(),
                    wait_s,
                    error,
                )
                time.sleep(wait_s)
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
                self._added.set()
            else:
                wait_s = _FIRST_WAIT_S


def _rebuild(
    uri: str, artifact_root: Path | None, storage_path: str, name: str
) -> MlflowRunCallback:
    store = Store(uri=uri, client=None, artifact_root=artifact_root)
    return MlflowRunCallback(store=store, storage_path=storage_path, name=name)


def _kind(error: Exception) -> str:
    """Class of the worker's error; Ray wraps it and offers no public way to what it wrapped."""
    return type(getattr(error, "_base_exc", error)).__name__
