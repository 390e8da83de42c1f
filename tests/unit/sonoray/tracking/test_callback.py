import json
import pickle
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from sonoray.tracking.callback import ANSWERS, MlflowRunCallback
from sonoray.tracking.connection import Store
from sonoray.tracking.delivery import ANSWERS_FILE

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


def test_a_report_is_told_once_and_one_of_other_values_beside_it(
    store: Store, training: Training
) -> None:
    def history(run_id: str, name: str) -> list[tuple[int, float]]:
        return [(p.step, p.value) for p in store.client.get_metric_history(run_id, name)]

    with training("told-again", config={}) as (callback, run_id):
        callback.after_report(None, [{"loss": 1.0, "step": 10}], None)
        callback.after_report(None, [{"loss": 0.5, "step": 20}], None)
        callback.after_exception(None, {0: OSError("x")})
        copy = pickle.loads(pickle.dumps(callback))
        copy.after_report(None, [{"loss": 0.5, "step": 20}], None)  # the last one, told again
        copy.after_report(None, [{"loss": 0.25, "step": 15}], None)  # with a larger batch
        copy.after_report(None, [{"loss": 0.75, "step": 20}], None)  # with other workers
    assert sorted(history(run_id, "loss")) == [(10, 1.0), (15, 0.25), (20, 0.5), (20, 0.75)]
    rates = history(run_id, "steps_per_s")
    assert [step for step, _ in rates] == [20, 20]
    assert all(rate > 0 for _, rate in rates)


def test_a_value_that_is_not_finite_is_named_and_not_logged(
    store: Store, training: Training
) -> None:
    with training("infinite", config={}) as (callback, run_id):
        callback.after_report(None, [{"loss": float("inf"), "alpha": 0.5, "step": 1}], None)
    run = store.client.get_run(run_id)
    assert "loss" not in run.data.metrics
    assert run.data.metrics["alpha"] == 0.5
    assert run.data.tags["not_finite"] == "loss at step 1"


def test_sample_answers_become_one_table_however_often_they_are_told(
    store: Store, training: Training
) -> None:
    def row(answer: str, probability: float) -> dict[str, object]:
        return {"question": "良性还是恶性？", "answer": answer, "probability": probability}

    with training("sampled", config={}) as (callback, run_id):
        told = {"validation_loss": 1.0, "step": 20, ANSWERS: [row("良性", 0.6), row("恶性", 0.5)]}
        callback.after_report(None, [told], None)
        copy = pickle.loads(pickle.dumps(callback))
        copy.after_report(None, [told], None)  # told again after a restart
        first = {"validation_loss": 2.0, "step": 10, ANSWERS: [row("恶性", float("nan"))]}
        copy.after_report(None, [first], None)
    table = store.client.download_artifacts(run_id, ANSWERS_FILE)
    found = json.loads(Path(table).read_text(encoding="utf-8"))
    assert found["columns"] == ["step", "question", "answer", "probability"]
    assert [line[0] for line in found["data"]] == [10, 20, 20]
    assert [line[2] for line in found["data"]] == ["恶性", "良性", "恶性"]
    tags = store.client.get_run(run_id).data.tags
    assert json.loads(tags["mlflow.loggedArtifacts"]) == [{"path": ANSWERS_FILE, "type": "table"}]
    assert "not_finite" not in tags
    names = set(store.client.get_run(run_id).data.metrics)
    assert not [name for name in names if ANSWERS in name]
