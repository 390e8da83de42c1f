import pickle
from collections.abc import Callable
from contextlib import AbstractContextManager

from sonoray.tracking.callback import MlflowRunCallback
from sonoray.tracking.connection import Store

Training = Callable[..., AbstractContextManager[tuple[MlflowRunCallback, str]]]


def test_callback_travels_as_plain_values_even_after_use(store: Store, training: Training) -> None:
    with training("pickled", config={}) as (callback, run_id):
        callback.after_report(None, [{"loss": 1.0}], None)
        copy = pickle.loads(pickle.dumps(callback))
        copy.after_report(None, [{"loss": 0.5}], None)
    history = store.client.get_metric_history(run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(0, 1.0), (1, 0.5)]


def test_failure_is_counted_without_its_text(store: Store, training: Training) -> None:
    with training("failing", config={}) as (callback, run_id):
        callback.after_exception(None, {1: ValueError("name of a patient")})
        copy = pickle.loads(pickle.dumps(callback))
        copy.after_exception(None, {0: OSError("x"), 1: ValueError("y")})
    tags = store.client.get_run(run_id).data.tags
    assert tags["sonoray.failures"] == "2"
    assert tags["sonoray.last_failure"] == "rank 0: OSError, rank 1: ValueError"
    assert "patient" not in str(tags)
