import json
import os
import pickle
import shlex
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sonoray.errors import CheckpointError, TrackingError
from sonoray.stages import Stage, run_stage
from sonoray.tracking import Tracking, child_tags
from sonoray.workspace import Workspace


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    """One SQLite store for the module: a new one costs seconds of migrations."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    root = tmp_path_factory.mktemp("工作 space")
    return Tracking.open(Workspace.open(root))


def export(root: Path, weight: str) -> Path:
    """A folder with a manifest, as an export stage leaves it."""

    def make(folder: Path) -> dict[str, int]:
        (folder / "adapter").mkdir()
        (folder / "adapter" / "weights.bin").write_text(weight)
        return {"files": 1}

    return run_stage(Stage(name="export", config={"weight": weight}), root, make).path


def new_run(tracking: Tracking, name: str) -> str:
    with tracking.training(tracking.workspace.runs, name, config={"a": 1}) as callback:
        pass
    return callback.run_id


# the store


def test_default_store_lies_in_the_workspace_and_is_in_wal_mode(tracking: Tracking) -> None:
    path = tracking.workspace.root / "mlflow.db"
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    words = shlex.split(tracking.how_to_open)
    setting, *command = words
    assert setting == "MLFLOW_DISABLE_TELEMETRY=true"
    assert command == ["mlflow", "ui", "--backend-store-uri", f"sqlite:///{path}"]
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


WRITER = """
import sys
from pathlib import Path
from sonoray.tracking import Tracking, child_tags
from sonoray.workspace import Workspace

tracking = Tracking.open(Workspace.open(Path(sys.argv[1])))
with tracking.training(tracking.workspace.runs, sys.argv[2], config={}) as callback:
    for step in range(30):
        callback.after_report(None, [{"loss": step / 10, "step": step}], None)
"""


def test_two_processes_write_at_once(tracking: Tracking) -> None:
    root = str(tracking.workspace.root)
    names = ["both-0", "both-1"]
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, root, name]) for name in names]
    assert [writer.wait(120) for writer in writers] == [0, 0]
    for name in names:
        run_id = (tracking.workspace.runs / name / "mlflow_run_id").read_text()
        history = tracking.store.client.get_metric_history(run_id, "loss")
        assert sorted(point.step for point in history) == list(range(30))


# trainings


def test_history_gives_each_step_once_in_order(tracking: Tracking) -> None:
    with tracking.training(tracking.workspace.runs, "history", config={}) as callback:
        for step, alpha in ((4, 0.5), (8, 0.6), (8, 0.7), (6, 0.4)):  # 8 again after a restart
            callback.after_report(None, [{"alpha": alpha, "loss": 1.0, "step": step}], None)
            time.sleep(0.002)  # MLflow's time stamps are in milliseconds
    found = tracking.history(callback.run_id, "alpha")
    assert found == {"alpha": [(4, 0.5), (6, 0.4), (8, 0.7)]}
    assert tracking.history(callback.run_id, "beta") == {}
    with pytest.raises(TrackingError, match="unknown-run"):
        tracking.history("unknown-run", "alpha")


def test_training_records_config_tags_and_end(tracking: Tracking) -> None:
    config = {"train": {"lr": 0.1}, "names": [f"n{i}" for i in range(3)]} | {
        f"p{i}": i for i in range(250)
    }
    tags = {"dataset.busbra": "d" * 64, "tower.clip": "c" * 64}
    with tracking.training(tracking.workspace.runs, "t1", config=config, tags=tags) as callback:
        running = tracking.store.client.get_run(callback.run_id)
        assert running.info.status == "RUNNING"
        callback.after_report(None, [{"loss": 2.0, "step": 5, "note": "text"}, {"loss": 9.0}], None)
    run = tracking.store.client.get_run(callback.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "t1"
    assert run.data.metrics == {"loss": 2.0, "reports": 1.0}
    assert len(run.data.params) == 252
    assert run.data.params["train.lr"] == "0.1"
    assert run.data.tags.items() >= tags.items()
    digest = run.data.tags["sonoray.config"]
    artifacts = [item.path for item in tracking.store.client.list_artifacts(callback.run_id)]
    assert artifacts == [f"config-{digest}.json"]
    files = list((tracking.workspace.root / "artifacts").rglob(f"config-{digest}.json"))
    assert config in [json.loads(file.read_text()) for file in files]


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError("bad"), "FAILED"), (KeyboardInterrupt(), "KILLED")]
)
def test_training_that_ends_badly_says_so(
    tracking: Tracking, error: BaseException, status: str
) -> None:
    with (
        pytest.raises(type(error)),
        tracking.training(tracking.workspace.runs, f"bad-{status}", config={}) as callback,
    ):
        raise error
    assert tracking.store.client.get_run(callback.run_id).info.status == status


def test_same_name_continues_the_run_with_a_changed_config(
    tracking: Tracking, caplog: pytest.LogCaptureFixture
) -> None:
    runs = tracking.workspace.runs
    with tracking.training(runs, "again", config={"epochs": 1}) as first:
        first.after_report(None, [{"loss": 1.0}], None)
    with tracking.training(runs, "again", config={"epochs": 2, "new": 3}) as second:
        second.after_report(None, [{"loss": 0.5}], None)
    assert second.run_id == first.run_id
    assert "epochs" in caplog.text
    run = tracking.store.client.get_run(first.run_id)
    assert run.data.params == {"epochs": "1", "new": "3"}
    assert len(tracking.store.client.list_artifacts(first.run_id)) == 2
    history = tracking.store.client.get_metric_history(first.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(1, 1.0), (2, 0.5)]
    with tracking.training(runs, "other", config={}) as third:
        pass
    assert third.run_id != first.run_id


def test_trainings_lie_below_the_group_that_began_them(tracking: Tracking) -> None:
    client, runs = tracking.store.client, tracking.workspace.runs
    with tracking.group("ablate-x", config={"a": 1}, tags={"sonoray.ablation": "x"}) as parent:
        assert client.get_run(parent).info.status == "RUNNING"
        tags = child_tags(parent, {"variant": "blend", "seed": "0"})
        with tracking.training(runs, "child", config={}, tags=tags) as callback:
            pass
    below = client.search_runs(
        [client.get_run(parent).info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'"
    )
    assert [run.info.run_id for run in below] == [callback.run_id]
    assert below[0].data.tags["sonoray.variant"] == "blend"
    assert client.get_run(parent).info.status == "FINISHED"
    assert client.get_run(parent).data.params == {"a": "1"}
    tracking.mark_failed(parent)
    assert client.get_run(parent).info.status == "FAILED"
    with tracking.group("ablate-x", config={"a": 1}) as again:
        assert again == parent
    assert client.get_run(parent).info.status == "FINISHED"


def test_a_training_that_was_there_before_joins_one_group_only(tracking: Tracking) -> None:
    client, run_id = tracking.store.client, new_run(tracking, "earlier")
    with tracking.group("one", config={}) as one, tracking.group("two", config={}) as two:
        assert tracking.nest(run_id, child_tags(one, {"variant": "a"})) == one
        assert tracking.nest(run_id, child_tags(two, {"variant": "b"})) == one
    tags = client.get_run(run_id).data.tags
    assert (tags["mlflow.parentRunId"], tags["sonoray.variant"]) == (one, "a")
    with pytest.raises(TrackingError, match=f"cannot put run '{'0' * 32}'"):
        tracking.nest("0" * 32, child_tags(one, {}))


def test_a_run_that_the_store_does_not_know_or_has_deleted_is_refused(tracking: Tracking) -> None:
    run_id = new_run(tracking, "deleted")
    tracking.require_run(run_id)
    tracking.store.client.delete_run(run_id)
    for unknown in (run_id, "0" * 32):
        with pytest.raises(TrackingError, match=f"{unknown}.* set MLFLOW_TRACKING_URI") as caught:
            tracking.require_run(unknown)
        assert str(tracking.workspace.root) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_deleted_or_foreign_run_starts_anew(tracking: Tracking) -> None:
    run_id = new_run(tracking, "lost")
    tracking.store.client.delete_run(run_id)
    second = new_run(tracking, "lost")
    assert second != run_id
    (tracking.workspace.runs / "lost" / "mlflow_run_id").write_text("0" * 32)
    assert new_run(tracking, "lost") not in {run_id, second}


def test_callback_travels_as_two_strings_even_after_use(tracking: Tracking) -> None:
    with tracking.training(tracking.workspace.runs, "pickled", config={}) as callback:
        callback.after_report(None, [{"loss": 1.0}], None)
        copy = pickle.loads(pickle.dumps(callback))
        copy.after_report(None, [{"loss": 0.5}], None)
    assert (copy.uri, copy.run_id) == (callback.uri, callback.run_id)
    run = tracking.store.client.get_run(callback.run_id)
    assert run.data.metrics == {"loss": 0.5, "reports": 2.0}


def test_failure_is_counted_without_its_text(tracking: Tracking) -> None:
    with tracking.training(tracking.workspace.runs, "failing", config={}) as callback:
        callback.after_exception(None, {1: ValueError("name of a patient")})
        copy = pickle.loads(pickle.dumps(callback))
        copy.after_exception(None, {0: OSError("x"), 1: ValueError("y")})
    tags = tracking.store.client.get_run(callback.run_id).data.tags
    assert tags["sonoray.failures"] == "2"
    assert tags["sonoray.last_failure"] == "rank 0: OSError, rank 1: ValueError"
    assert "patient" not in str(tags)


def test_outage_keeps_the_reports_and_sends_them_later(
    tracking: Tracking, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mlflow.exceptions import MlflowException

    with tracking.training(tracking.workspace.runs, "outage", config={}) as callback:
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
    history = tracking.store.client.get_metric_history(callback.run_id, "loss")
    assert sorted(point.step for point in history) == list(range(1, 1203))
    assert not any(name.startswith("MLFLOW_HTTP_REQUEST") for name in os.environ)


def test_status_that_cannot_be_set_is_told(
    tracking: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.exceptions import MlflowException

    def down(*args: object) -> None:
        raise MlflowException("gone")

    with (
        pytest.raises(TrackingError, match="FINISHED"),
        tracking.training(tracking.workspace.runs, "unclosed", config={}),
    ):
        monkeypatch.setattr(tracking.store.client, "set_terminated", down)


def test_log_evaluation_adds_metrics_and_artifacts(tracking: Tracking, tmp_path: Path) -> None:
    run_id = new_run(tracking, "evaluated")
    picture = tmp_path / "roc.png"
    picture.write_bytes(b"png")
    tracking.log_evaluation(
        run_id,
        {"test": {"pathology": {"auc": 0.7, "constant_answer": "良性"}}},
        {"eval/table.md": "| 表 |", "eval/metrics.json": {"a": 1}, "eval/roc.png": picture},
    )
    client = tracking.store.client
    assert client.get_run(run_id).data.metrics == {"test.pathology.auc": 0.7}
    names = sorted(item.path for item in client.list_artifacts(run_id, "eval"))
    assert names == ["eval/metrics.json", "eval/roc.png", "eval/table.md"]
    with pytest.raises(TrackingError, match="f00d"):
        tracking.log_evaluation("f00d", {"a": 1})


# models


def test_register_and_resolve(tracking: Tracking, tmp_path: Path) -> None:
    run_id = new_run(tracking, "registered")
    one, two = export(tmp_path, "one"), export(tmp_path, "two")
    first = tracking.register(
        one, "ultra", alias="champion", run_id=run_id, tags={"tower.clip": "abc"}
    )
    assert (first.version, first.reused, first.uri) == (1, False, "models:/ultra@champion")
    found = tracking.resolve_model(first.uri)
    assert (found / "adapter" / "weights.bin").read_text() == "one"
    tags = tracking.store.client.get_model_version("ultra", "1").tags
    assert tags == {"tower.clip": "abc", "sonoray.manifest_sha256": first.digest}

    second = tracking.register(two, "ultra", alias="champion", run_id=run_id)
    assert second.version == 2
    moved = tracking.resolve_model("models:/ultra@champion")
    assert (moved / "adapter" / "weights.bin").read_text() == "two"
    old = tracking.resolve_model("models:/ultra/1")
    assert (old / "adapter" / "weights.bin").read_text() == "one"

    again = tracking.register(one, "ultra", alias="champion", run_id=run_id)
    assert (again.version, again.reused) == (1, True)
    assert len(tracking.store.client.search_model_versions("name = 'ultra'")) == 2
    assert tracking.resolve_model("models:/ultra@champion") == found
    assert tracking.resolve_model(one) == one


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("models:/ultra2@nobody", ["versions 1", "@champion = 1"]),
        ("models:/ultra2/7", ["versions 1"]),
        ("models:/unheard@champion", ["ultra2"]),
        ("models:/ultra2", ["models:/NAME@ALIAS"]),
    ],
)
def test_unknown_model_lists_what_exists(
    tracking: Tracking, tmp_path: Path, model: str, words: list[str]
) -> None:
    run_id = new_run(tracking, "listed")
    tracking.register(export(tmp_path, "x"), "ultra2", alias="champion", run_id=run_id)
    with pytest.raises(TrackingError) as caught:
        tracking.resolve_model(model)
    assert all(word in str(caught.value) for word in [*words, model])


def test_bad_folder_name_alias_and_run_are_told(tracking: Tracking, tmp_path: Path) -> None:
    run_id = new_run(tracking, "badly-registered")
    folder = export(tmp_path, "y")
    with pytest.raises(CheckpointError, match="sonoray export"):
        tracking.register(tmp_path, "m", alias="champion", run_id=run_id)
    with pytest.raises(CheckpointError, match="nowhere"):
        tracking.resolve_model(tmp_path / "nowhere")
    with pytest.raises(TrackingError, match="a'b"):
        tracking.register(folder, "a'b", alias="champion", run_id=run_id)
    with pytest.raises(TrackingError, match="v1"):
        tracking.register(folder, "m", alias="v1", run_id=run_id)
    with pytest.raises(TrackingError, match="f00d"):
        tracking.register(folder, "never", alias="champion", run_id="f00d")


def test_changed_artifact_is_refused(tracking: Tracking, tmp_path: Path) -> None:
    run_id = new_run(tracking, "tampered")
    version = tracking.register(export(tmp_path, "z"), "ultra3", alias="champion", run_id=run_id)
    manifest = tracking.resolve_model(version.uri) / "manifest.json"
    manifest.write_text(manifest.read_text().replace("export", "exp0rt"))
    with pytest.raises(CheckpointError, match="changed"):
        tracking.resolve_model(version.uri)
