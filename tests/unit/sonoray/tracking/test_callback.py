import os
import pickle
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from sonoray.tracking.callback import MlflowRunCallback
from sonoray.tracking.connection import Store

Training = Callable[..., AbstractContextManager[MlflowRunCallback]]


def test_callback_travels_as_two_strings_even_after_use(store: Store, training: Training) -> None:
    with training("pickled", config={}) as callback:
        callback.after_report(None, [{"loss": 1.0}], None)
        copy = pickle.loads(pickle.dumps(callback))
        copy.after_report(None, [{"loss": 0.5}], None)
    assert (copy.uri, copy.run_id) == (callback.uri, callback.run_id)
    run = store.client.get_run(callback.run_id)
    assert run.data.metrics == {"loss": 0.5, "reports": 2.0}


def test_failure_is_counted_without_its_text(store: Store, training: Training) -> None:
    with training("failing", config={}) as callback:
        callback.after_exception(None, {1: ValueError("name of a patient")})
        copy = pickle.loads(pickle.dumps(callback))
        copy.after_exception(None, {0: OSError("x"), 1: ValueError("y")})
    tags = store.client.get_run(callback.run_id).data.tags
    assert tags["sonoray.failures"] == "2"
    assert tags["sonoray.last_failure"] == "rank 0: OSError, rank 1: ValueError"
    assert "patient" not in str(tags)


def test_outage_keeps_the_reports_and_sends_them_later(
    store: Store,
    training: Training,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from mlflow.exceptions import MlflowException

    with training("outage", config={}) as callback:
        callback.after_report(None, [{"loss": 3.0, "step": 1}], None)
        client = callback._store.client
        real, calls = client.log_batch, []

        def down(*args: object, **kwargs: object) -> None:
            calls.append(args)
            raise MlflowException("gone")

        monkeypatch.setattr(client, "log_batch", down)
        for step in range(2, 1202):
            callback.after_report(None, [{"loss": 1.0 / step, "step": step}], None)
        assert len(calls) == 1  # the controller is not stalled at every report
        assert "goes on without MLflow" in caplog.text
        monkeypatch.setattr(client, "log_batch", real)
        callback._retry_at = 0.0
        callback.after_report(None, [{"loss": 0.0, "step": 1202}], None)
    history = store.client.get_metric_history(callback.run_id, "loss")
    assert sorted(point.step for point in history) == list(range(1, 1203))
    assert not any(name.startswith("MLFLOW_HTTP_REQUEST") for name in os.environ)
