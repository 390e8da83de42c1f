"""The MLflow end of a training: one batch of metrics per report, from Ray Train's controller.

Ray Train v2 rejects MLflow's old logger and calls a `UserCallback` on the controller, which
outlives its worker groups: that is why a retried training stays one run. The driver makes the run
and closes it (`runs.held_run`); this class only adds to it. It travels as two strings, since
Ray sends the run configuration, and with it the callback, to every new worker group.

An MLflow that goes away does not stop a training. Reports are kept (up to 100,000 values), a try
ends after 10 s and the next one waits 30 s, so that the controller is not stalled at each report,
and what came late carries its own time and step. What is still kept when the training ends is lost.
"""

import logging
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from ray.train import Checkpoint, UserCallback

from sonoray.errors import TrackingError
from sonoray.tracking.connection import Store, connect, impatient
from sonoray.tracking.params import MAX_METRICS_PER_CALL, scalar_metrics

REPORTS_METRIC = "reports"
FAILURES_TAG = "sonoray.failures"

_STEP = "step"
_MAX_PENDING = 100_000
_RETRY_AFTER_S = 30.0
_TIMEOUT_S = 10

_logger = logging.getLogger(__name__)


class MlflowRunCallback(UserCallback):
    """Log every `ray.train.report` of one training to one MLflow run.

    The metrics of rank 0 count (reduce over the ranks before reporting). Their `step` is the MLflow
    step; a report without one is numbered on from the last report of the run. The newest checkpoint
    is linked by the tag `checkpoint` and never uploaded. A report of the step and the
    values that were told last is left out: a training that goes on tells its last report again,
    which may have been lost with its worker.
    """

    def __init__(self, *, uri: str, run_id: str) -> None:
        self.uri = uri
        self.run_id = run_id
        self._store: Store | None = None
        self._reports = 0
        self._last: dict[str, float] = {}
        self._failures = 0
        self._pending: deque[tuple[str, float, int, int]] = deque(maxlen=_MAX_PENDING)
        self._tags: dict[str, str] = {}
        self._retry_at = 0.0

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as (uri, run id): connections and what is pending stay in their process."""
        return _rebuild, (self.uri, self.run_id)

    def after_report(
        self,
        run_context: Any,  # noqa: ANN401 - Ray's internal TrainRunContext
        metrics: list[dict[str, Any]],
        checkpoint: Checkpoint | None,
    ) -> None:
        """Log the metrics of rank 0 and the link to the checkpoint."""
        self._connect()
        numbers = scalar_metrics(metrics[0])
        step = int(numbers.pop("step", self._reports + 1))
        told = {**numbers, _STEP: float(step)}
        if any(self._last.get(key) != value for key, value in told.items()):
            self._last = told
            self._reports += 1
            now_ms = int(time.time() * 1000)
            numbers[REPORTS_METRIC] = float(self._reports)
            self._pending.extend((key, value, now_ms, step) for key, value in numbers.items())
        if checkpoint is not None:
            self._tags |= {"checkpoint": checkpoint.path, "checkpoint.step": str(step)}
        self._flush()

    def after_exception(
        self,
        run_context: Any,  # noqa: ANN401 - Ray's internal TrainRunContext
        worker_exceptions: Mapping[int, Exception],
    ) -> None:
        """Count a failed attempt and name its kind (never its text, which may quote data)."""
        self._connect()
        self._failures += 1
        kinds = ", ".join(
            f"rank {rank}: {_kind(error)}" for rank, error in sorted(worker_exceptions.items())
        )
        self._tags |= {FAILURES_TAG: str(self._failures), "sonoray.last_failure": kinds[:500]}
        self._flush()

    def _connect(self) -> None:
        """Connect where it was not done; the run itself knows how far it had come."""
        if self._store is not None or time.monotonic() < self._retry_at:
            return
        try:
            store = connect(self.uri)
            with impatient(_TIMEOUT_S), store.guard(f"cannot give run {self.run_id!r}"):
                run = store.client.get_run(self.run_id)
                told = store.client.get_metric_history(self.run_id, REPORTS_METRIC)
        except TrackingError as error:
            self._postpone(error)
            return
        self._store = store
        self._reports += int(run.data.metrics.get(REPORTS_METRIC, 0))
        if told and not self._last:
            newest = max(told, key=lambda point: (point.timestamp, point.value))
            self._last = {**run.data.metrics, _STEP: float(newest.step)}
        self._failures += int(run.data.tags.get(FAILURES_TAG, 0))

    def _flush(self) -> None:
        """Send what is pending; keep it where MLflow does not take it."""
        if self._store is None or time.monotonic() < self._retry_at:
            return
        from mlflow.entities import Metric, RunTag

        tags = [RunTag(key, value) for key, value in self._tags.items()]
        try:
            while self._pending or tags:
                size = min(len(self._pending), MAX_METRICS_PER_CALL)
                metrics = [Metric(*self._pending[index]) for index in range(size)]
                with impatient(_TIMEOUT_S), self._store.guard("does not take metrics"):
                    self._store.client.log_batch(self.run_id, metrics=metrics, tags=tags)
                for _ in range(size):
                    self._pending.popleft()
                tags = []
        except TrackingError as error:
            self._postpone(error)
        else:
            self._tags.clear()

    def _postpone(self, error: TrackingError) -> None:
        self._retry_at = time.monotonic() + _RETRY_AFTER_S
        _logger.warning(
            "training goes on without MLflow, %d values kept, next try in %.0f s: %s",
            len(self._pending),
            _RETRY_AFTER_S,
            error,
        )


def _rebuild(uri: str, run_id: str) -> MlflowRunCallback:
    return MlflowRunCallback(uri=uri, run_id=run_id)


def _kind(error: Exception) -> str:
    """Class of the worker's error; Ray wraps it and offers no public way to what it wrapped."""
    return type(getattr(error, "_base_exc", error)).__name__
