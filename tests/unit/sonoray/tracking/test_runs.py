import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest

from sonoray.errors import TrackingError
from sonoray.tracking.callback import MlflowRunCallback
from sonoray.tracking.connection import Store
from sonoray.tracking.runs import (
    child_tags,
    held_run,
    log_results,
    metric_history,
    nest,
    require_run,
    run_of_model,
    terminate,
)
from sonoray.workspace import Workspace

Training = Callable[..., AbstractContextManager[MlflowRunCallback]]
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
    callback = MlflowRunCallback(uri=store.uri, run_id=run_id)
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
    with training("history", config={}) as callback:
        for step, alpha in ((4, 0.5), (8, 0.6), (8, 0.7), (6, 0.4)):  # 8 again after a restart
            callback.after_report(None, [{"alpha": alpha, "loss": 1.0, "step": step}], None)
            time.sleep(0.002)  # MLflow's time stamps are in milliseconds
    found = metric_history(store, callback.run_id, "alpha")
    assert found == {"alpha": [(4, 0.5), (6, 0.4), (8, 0.7)]}
    assert metric_history(store, callback.run_id, "beta") == {}
    with pytest.raises(TrackingError, match="unknown-run"):
        metric_history(store, "unknown-run", "alpha")


def test_training_records_config_tags_and_end(
    store: Store, workspace: Workspace, training: Training
) -> None:
    config = {"train": {"lr": 0.1}, "names": [f"n{i}" for i in range(3)]} | {
        f"p{i}": i for i in range(250)
    }
    tags = {"dataset.busbra": "d" * 64, "tower.clip": "c" * 64}
    with training("t1", config=config, tags=tags) as callback:
        running = store.client.get_run(callback.run_id)
        assert running.info.status == "RUNNING"
        callback.after_report(None, [{"loss": 2.0, "step": 5, "note": "text"}, {"loss": 9.0}], None)
    run = store.client.get_run(callback.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "t1"
    assert run.data.metrics == {"loss": 2.0, "reports": 1.0}
    assert len(run.data.params) == 252
    assert run.data.params["train.lr"] == "0.1"
    assert run.data.tags.items() >= tags.items()
    digest = run.data.tags["sonoray.config"]
    artifacts = [item.path for item in store.client.list_artifacts(callback.run_id)]
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
        training(f"bad-{status}", config={}) as callback,
    ):
        raise error
    assert store.client.get_run(callback.run_id).info.status == status


def test_same_name_continues_the_run_with_a_changed_config(
    store: Store, training: Training, caplog: pytest.LogCaptureFixture
) -> None:
    with training("again", config={"epochs": 1}) as first:
        first.after_report(None, [{"loss": 1.0}], None)
    with training("again", config={"epochs": 2, "new": 3}) as second:
        second.after_report(None, [{"loss": 0.5}], None)
    assert second.run_id == first.run_id
    assert "epochs" in caplog.text
    run = store.client.get_run(first.run_id)
    assert run.data.params == {"epochs": "1", "new": "3"}
    assert len(store.client.list_artifacts(first.run_id)) == 2
    history = store.client.get_metric_history(first.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(1, 1.0), (2, 0.5)]
    with training("other", config={}) as third:
        pass
    assert third.run_id != first.run_id


def test_trainings_lie_below_the_group_that_began_them(
    store: Store, workspace: Workspace, training: Training
) -> None:
    client = store.client
    group = partial(held_run, store, workspace.runs)
    with group("ablate-x", config={"a": 1}, tags={"sonoray.ablation": "x"}) as parent:
        assert client.get_run(parent).info.status == "RUNNING"
        tags = child_tags(parent, {"variant": "blend", "seed": "0"})
        with training("child", config={}, tags=tags) as callback:
            pass
    below = client.search_runs(
        [client.get_run(parent).info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'"
    )
    assert [run.info.run_id for run in below] == [callback.run_id]
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


def test_status_that_cannot_be_set_is_told(
    store: Store, training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.exceptions import MlflowException

    def down(*args: object) -> None:
        raise MlflowException("gone")

    with (
        pytest.raises(TrackingError, match="FINISHED"),
        training("unclosed", config={}),
    ):
        monkeypatch.setattr(store.client, "set_terminated", down)


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
