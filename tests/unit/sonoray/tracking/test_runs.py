import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path

import pytest

from sonoray.errors import TrackingError
from sonoray.tracking.callback import MlflowRunCallback
from sonoray.tracking.connection import Store
from sonoray.tracking.runs import (
    RunDataset,
    child_tags,
    end_killed,
    held_run,
    log_results,
    metric_history,
    nest,
    require_run,
    run_of_model,
    terminate,
)
from sonoray.workspace import Workspace

Training = Callable[..., AbstractContextManager[tuple[MlflowRunCallback, str]]]
NewRun = Callable[[str], str]

WRITER = """
import sys
from pathlib import Path
from sonoray.tracking.callback import MlflowRunCallback
from sonoray.tracking.connection import open_store
from sonoray.tracking.runs import held_run
from sonoray.workspace import Workspace

workspace = Workspace.open(Path(sys.argv[1]))
store = open_store(workspace)
with held_run(store, workspace.runs, sys.argv[2], config={}) as run_id:
    callback = MlflowRunCallback(store=store, storage_path=workspace.runs, name=sys.argv[2])
    for step in range(30):
        callback.after_report(None, [{"loss": step / 10, "step": step}], None)
"""


def test_two_processes_write_at_once(store: Store, workspace: Workspace) -> None:
    root = str(workspace.root)
    names = ["both-0", "both-1"]
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, root, name]) for name in names]
    assert [writer.wait(120) for writer in writers] == [0, 0]
    for name in names:
        run_id = (workspace.runs / name / "mlflow_run_id").read_text()
        history = store.client.get_metric_history(run_id, "loss")
        assert sorted(point.step for point in history) == list(range(30))


def test_history_gives_each_step_once_in_order(store: Store, training: Training) -> None:
    with training("history", config={}) as (callback, run_id):
        for step, alpha in ((4, 0.5), (6, 0.4), (8, 0.6), (6, 0.4), (8, 0.6), (9, 0.7)):
            callback.after_report(None, [{"alpha": alpha, "loss": 1.0, "step": step}], None)
            time.sleep(0.002)  # MLflow's time stamps are in milliseconds
    found = metric_history(store, run_id, "alpha")
    assert found == {"alpha": [(4, 0.5), (6, 0.4), (8, 0.6), (9, 0.7)]}
    # two steps came again, as after a restart from a checkpoint: each is told once
    assert len(store.client.get_metric_history(run_id, "alpha")) == 4
    assert metric_history(store, run_id, "beta") == {}
    with pytest.raises(TrackingError, match="unknown-run"):
        metric_history(store, "unknown-run", "alpha")


def test_training_records_config_tags_and_end(
    store: Store, workspace: Workspace, training: Training
) -> None:
    config = {"train": {"lr": 0.1}, "names": [f"n{i}" for i in range(3)]} | {
        f"p{i}": i for i in range(250)
    }
    tags = {"dataset.busbra": "d" * 64, "tower.clip": "c" * 64}
    with training("t1", config=config, tags=tags) as (callback, run_id):
        running = store.client.get_run(run_id)
        assert running.info.status == "RUNNING"
        callback.after_report(None, [{"loss": 2.0, "step": 5, "note": "text"}, {"loss": 9.0}], None)
    run = store.client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "t1"
    assert run.data.metrics == {"loss": 2.0}
    assert len(run.data.params) == 252
    assert run.data.params["train.lr"] == "0.1"
    assert run.data.tags.items() >= tags.items()
    digest = run.data.tags["sonoray.config"]
    artifacts = [item.path for item in store.client.list_artifacts(run_id)]
    assert artifacts == [f"config-{digest}.json"]
    files = list((workspace.root / "artifacts").rglob(f"config-{digest}.json"))
    assert config in [json.loads(file.read_text()) for file in files]


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError("bad"), "FAILED"), (KeyboardInterrupt(), "KILLED")]
)
def test_training_that_ends_badly_says_so(
    store: Store, training: Training, error: BaseException, status: str
) -> None:
    with (
        pytest.raises(type(error)),
        training(f"bad-{status}", config={}) as (_, run_id),
    ):
        raise error
    assert store.client.get_run(run_id).info.status == status


def fail(training: Training, name: str, config: dict[str, object]) -> str:
    """A training that reports once and dies; returns its run."""
    with suppress(ValueError), training(name, config=config) as (callback, run_id):
        callback.after_report(None, [{"loss": 1.0}], None)
        raise ValueError("it died")
    return run_id


def test_same_name_continues_the_run_with_a_changed_config(
    store: Store, training: Training, caplog: pytest.LogCaptureFixture
) -> None:
    first = fail(training, "again", {"epochs": 1})
    failed = store.client.get_run(first).info
    assert (failed.status, failed.end_time > 0) == ("FAILED", True)
    with training("again", config={"epochs": 2, "new": 3}) as (callback, second):
        running = store.client.get_run(second).info
        assert (running.status, bool(running.end_time)) == ("RUNNING", False)
        assert running.start_time == failed.start_time
        callback.after_report(None, [{"loss": 0.5}], None)
    assert second == first
    assert "epochs" in caplog.text
    run = store.client.get_run(first)
    assert run.info.status == "FINISHED"
    assert run.info.end_time >= failed.end_time
    assert run.data.params == {"epochs": "1", "new": "3"}
    assert len(store.client.list_artifacts(first)) == 2
    history = store.client.get_metric_history(first, "loss")
    assert [(point.step, point.value) for point in history] == [(0, 1.0), (1, 0.5)]
    with training("other", config={}) as (_, third):
        pass
    assert third != first


def test_a_training_that_was_finished_begins_its_steps_anew(
    store: Store, training: Training
) -> None:
    for loss in (1.0, 0.5):
        with training("anew", config={}) as (callback, run_id):
            callback.after_report(None, [{"loss": loss, "step": 3}], None)
            time.sleep(0.002)
    history = store.client.get_metric_history(run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(3, 1.0), (3, 0.5)]


def test_values_that_are_not_finite_are_named_and_never_logged(
    store: Store, training: Training
) -> None:
    with training("broken", config={}) as (callback, run_id):
        callback.after_report(None, [{"loss": float("inf"), "alpha": 0.5, "step": 1}], None)
        callback.after_report(None, [{"loss": float("nan"), "alpha": 0.5, "step": 2}], None)
    run = store.client.get_run(run_id)
    assert set(run.data.metrics) == {"alpha", "steps_per_s"}
    assert run.data.tags["not_finite"] == "loss at step 2"


def test_the_dataset_stands_in_mlflows_own_column_and_params_may_be_fewer_than_the_config(
    store: Store, training: Training
) -> None:
    dataset = RunDataset(name="busbra", digest="d" * 36, source="busbra")
    config, params = {"a": 1, "serve": {"port": 8000}}, {"a": 1}
    for _ in range(2):
        with training(
            "with-data", config=config, params=params, dataset=dataset, title="busbra tiny"
        ) as (_, run_id):
            pass
    run = store.client.get_run(run_id)
    assert run.info.run_name == "busbra tiny"
    assert run.data.params == {"a": "1"}
    assert [(each.dataset.name, each.dataset.digest) for each in run.inputs.dataset_inputs] == [
        ("busbra", "d" * 36)
    ]


def test_trainings_lie_below_the_group_that_began_them(
    store: Store, workspace: Workspace, training: Training
) -> None:
    client = store.client
    group = partial(held_run, store, workspace.runs)
    with group("ablate-x", config={"a": 1}, tags={"sonoray.ablation": "x"}) as parent:
        assert client.get_run(parent).info.status == "RUNNING"
        tags = child_tags(parent, {"variant": "blend", "seed": "0"})
        with training("child", config={}, tags=tags) as (_, run_id):
            pass
    below = client.search_runs(
        [client.get_run(parent).info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'"
    )
    assert [run.info.run_id for run in below] == [run_id]
    assert below[0].data.tags["sonoray.variant"] == "blend"
    assert client.get_run(parent).info.status == "FINISHED"
    assert client.get_run(parent).data.params == {"a": "1"}
    terminate(store, parent, "FAILED")
    assert client.get_run(parent).info.status == "FAILED"
    with group("ablate-x", config={"a": 1}) as again:
        assert again == parent
    assert client.get_run(parent).info.status == "FINISHED"


def test_a_training_that_was_there_before_joins_one_group_only(
    store: Store, workspace: Workspace, new_run: NewRun
) -> None:
    client, run_id = store.client, new_run("earlier")
    group = partial(held_run, store, workspace.runs)
    with group("one", config={}) as one, group("two", config={}) as two:
        assert nest(store, run_id, child_tags(one, {"variant": "a"})) == one
        assert nest(store, run_id, child_tags(two, {"variant": "b"})) == one
    tags = client.get_run(run_id).data.tags
    assert (tags["mlflow.parentRunId"], tags["sonoray.variant"]) == (one, "a")
    with pytest.raises(TrackingError, match=f"cannot put run '{'0' * 32}'"):
        nest(store, "0" * 32, child_tags(one, {}))


def test_a_run_that_the_store_does_not_know_or_has_deleted_is_refused(
    store: Store, workspace: Workspace, new_run: NewRun
) -> None:
    run_id = new_run("deleted")
    require_run(store, run_id)
    store.client.delete_run(run_id)
    for unknown in (run_id, "0" * 32):
        with pytest.raises(TrackingError, match=f"{unknown}.* set MLFLOW_TRACKING_URI") as caught:
            require_run(store, unknown)
        assert str(workspace.root) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_deleted_or_foreign_run_starts_anew(
    store: Store, workspace: Workspace, new_run: NewRun
) -> None:
    run_id = new_run("lost")
    store.client.delete_run(run_id)
    second = new_run("lost")
    assert second != run_id
    (workspace.runs / "lost" / "mlflow_run_id").write_text("0" * 32)
    assert new_run("lost") not in {run_id, second}


def test_log_evaluation_adds_metrics_and_artifacts(
    store: Store, new_run: NewRun, tmp_path: Path
) -> None:
    run_id = new_run("evaluated")
    picture = tmp_path / "roc.png"
    picture.write_bytes(b"png")
    log_results(
        store,
        run_id,
        {"test": {"pathology": {"auc": 0.7, "constant_answer": "良性"}}},
        {"eval/table.md": "| 表 |", "eval/metrics.json": {"a": 1}, "eval/roc.png": picture},
    )
    client = store.client
    assert client.get_run(run_id).data.metrics == {"test.pathology.auc": 0.7}
    names = sorted(item.path for item in client.list_artifacts(run_id, "eval"))
    assert names == ["eval/metrics.json", "eval/roc.png", "eval/table.md"]
    with pytest.raises(TrackingError, match="f00d"):
        log_results(store, "f00d", {"a": 1})


def test_a_models_results_go_to_its_training_or_to_one_run_of_the_model(
    store: Store, new_run: NewRun
) -> None:
    trained = new_run("of-here")
    options = {"name": "model", "experiment": "elsewhere"}
    tags = {"sonoray.model": "a" * 64}
    assert run_of_model(store, trained, **options, tags=tags) == trained
    foreign = run_of_model(store, "0" * 32, **options, tags=tags)
    assert foreign != trained
    assert run_of_model(store, "0" * 32, **options, tags=tags) == foreign
    another = run_of_model(store, "0" * 32, **options, tags={"sonoray.model": "b" * 64})
    assert another not in (foreign, trained)
    run = store.client.get_run(foreign)
    assert (run.info.run_name, run.info.status) == ("model", "FINISHED")


def test_a_training_that_was_ended_from_outside_is_killed_and_says_why(
    store: Store, workspace: Workspace
) -> None:
    with held_run(store, workspace.runs, "ended-outside", config={"a": 1}) as run_id:
        pass
    store.client.update_run(run_id, status="RUNNING")
    end_killed(store, workspace.runs, "ended-outside", {"why": "it fell behind"})
    run = store.client.get_run(run_id)
    assert (run.info.status, run.data.tags["why"]) == ("KILLED", "it fell behind")
