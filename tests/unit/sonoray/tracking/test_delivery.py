"""A real MLflow server that is away, stops and stays silent: nothing is lost, nothing doubled."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sonoray.errors import TrackingError
from sonoray.tracking.callback import MlflowRunCallback
from sonoray.tracking.connection import Store, connect, open_store
from sonoray.tracking.delivery import deliver, deliver_waiting, outbox_of
from sonoray.tracking.outbox import OutboxState
from sonoray.tracking.runs import PENDING, held_run, settled_run_id
from sonoray.workspace import Workspace


@dataclass
class Server:
    """An MLflow server of its own that can be stopped and started on one port."""

    folder: Path
    backend: str
    port: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None)

    def __post_init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Store:
        address = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        artifacts = ["--artifacts-destination", str(self.folder / "artifacts")]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *address, *artifacts,
             "--backend-store-uri", self.backend],
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + 180
        while True:
            try:
                return connect(self.uri)
            except TrackingError:
                assert self.process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.5)

    def stop(self, number: int = signal.SIGKILL) -> None:
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, number)
            if number == signal.SIGKILL:
                self.process.wait(30)


@pytest.fixture
def server(tmp_path: Path, make_backend: Callable[[], str]) -> Iterator[Server]:
    found = Server(folder=tmp_path, backend=make_backend())
    yield found
    found.stop(signal.SIGCONT)
    found.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def make_backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], str]]:
    if request.param == "sqlite":
        yield lambda: f"sqlite:///{tmp_path}/server.db"
        return
    database = request.getfixturevalue("postgresql")
    yield lambda: database


def history(store: Store, run_id: str) -> list[tuple[int, float]]:
    points = store.client.get_metric_history(run_id, "loss")
    return sorted((point.step, point.value) for point in points)


def runs(store: Store) -> list[str]:
    ids = [each.experiment_id for each in store.client.search_experiments()]
    return [run.info.run_id for run in store.client.search_runs(ids)]


def report(callback: MlflowRunCallback, steps: range) -> float:
    """Report steps; returns how long the controller was held up."""
    start = time.monotonic()
    for step in steps:
        callback.after_report(None, [{"loss": 1.0 / (1 + step), "step": step}], None)
    return time.monotonic() - start


@pytest.mark.slow
def test_a_server_that_comes_goes_and_stays_silent_gets_each_value_once(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    workspace = Workspace.open(tmp_path / "ws")
    away = open_store(workspace, server.uri, may_be_away=True)
    assert "Connection refused" in caplog.text
    with held_run(away, workspace.runs, "t", config={"a": 1}, tags={"x": "y"}) as pending:
        callback = MlflowRunCallback(store=away, storage_path=workspace.runs, name="t")
        assert report(callback, range(20)) < 10  # down from the start
        store = server.start()
        report(callback, range(20, 40))
        deadline = time.monotonic() + 120
        while not runs(store) or len(history(store, runs(store)[0])) < 40:  # the courier's tries
            assert time.monotonic() < deadline
            time.sleep(1)
        server.stop()  # in the middle
        assert report(callback, range(40, 60)) < 10
        server.start()
        server.stop(signal.SIGSTOP)  # there, and silent
        assert report(callback, range(60, 80)) < 10
        server.stop(signal.SIGCONT)
    assert pending.startswith(PENDING)
    run_id = settled_run_id(store, workspace.runs, "t", pending)
    assert runs(store) == [run_id]
    assert history(store, run_id) == [(step, 1.0 / (1 + step)) for step in range(80)]
    run = store.client.get_run(run_id)
    assert (run.info.status, run.data.params, run.data.tags["x"]) == ("FINISHED", {"a": "1"}, "y")
    assert not outbox_of(workspace.runs, "t").num_waiting()


@pytest.mark.slow
def test_a_training_that_ended_while_the_server_was_away_is_delivered_later_and_stays_one_run(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    workspace = Workspace.open(tmp_path / "ws")
    away = open_store(workspace, server.uri, may_be_away=True)

    def train(steps: range) -> str:
        with held_run(away, workspace.runs, "t", config={"a": 1}) as run_id:
            callback = MlflowRunCallback(store=away, storage_path=workspace.runs, name="t")
            report(callback, steps)
        return run_id

    pending = train(range(5))
    assert "wait in" in caplog.text
    store = server.start()
    deliver_waiting(store, workspace.runs)
    (run_id,) = runs(store)
    assert settled_run_id(store, workspace.runs, "t", pending) == run_id
    assert history(store, run_id) == [(step, 1.0 / (1 + step)) for step in range(5)]
    # the process died after the call and before it noted it: all of it is sent again
    outbox = outbox_of(workspace.runs, "other")
    with held_run(store, workspace.runs, "other", config={"a": 1}) as other:
        report(MlflowRunCallback(store=store, storage_path=workspace.runs, name="other"), range(5))
        deliver(outbox, store)
        for identity in (outbox.identity(), outbox.identity()):
            outbox.note(OutboxState(identity=identity))
            (workspace.runs / "other" / "mlflow_run_id").unlink()
            deliver(outbox, store)
    assert sorted(runs(store)) == sorted([run_id, other])
    assert history(store, other) == [(step, 1.0 / (1 + step)) for step in range(5)]
    assert store.client.get_run(other).info.status == "FINISHED"


def test_a_run_that_was_deleted_meanwhile_is_made_anew(
    store: Store, workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    with held_run(store, workspace.runs, "deleted-meanwhile", config={"a": 1}) as first:
        callback = MlflowRunCallback(
            store=store, storage_path=workspace.runs, name="deleted-meanwhile"
        )
        report(callback, range(3))
        deliver(outbox_of(workspace.runs, "deleted-meanwhile"), store)
        store.client.delete_run(first)
        report(callback, range(3, 5))
    second = (workspace.runs / "deleted-meanwhile" / "mlflow_run_id").read_text()
    assert second != first
    assert [step for step, _ in history(store, second)] == list(range(5))
    assert store.client.get_run(second).data.params == {"a": "1"}


def test_what_mlflow_refuses_for_good_does_not_hold_up_the_rest(
    store: Store, workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = outbox_of(workspace.runs, "refused")
    with held_run(store, workspace.runs, "refused", config={}) as run_id:
        outbox.add({"kind": "tags", "tags": {"": "no name"}}, {"kind": "tags", "tags": {"b": "c"}})
    assert "MLflow refuses tags" in caplog.text
    run = store.client.get_run(run_id)
    assert (run.data.tags["b"], run.info.status) == ("c", "FINISHED")


def test_an_experiment_that_was_deleted_stops_before_anything_is_kept(
    store: Store, workspace: Workspace
) -> None:
    gone = store.client.create_experiment("gone")
    store.client.delete_experiment(gone)
    with (
        pytest.raises(TrackingError, match=f"restore --experiment-id {gone}"),
        held_run(store, workspace.runs, "never", config={}, experiment="gone"),
    ):
        pass
    assert list(outbox_of(workspace.runs, "never").entries()) == []
    with held_run(store, workspace.runs, "never", config={}) as run_id:
        pass
    assert store.client.get_run(run_id).info.status == "FINISHED"


def test_an_entry_is_plain_json(tmp_path: Path) -> None:
    outbox = outbox_of(tmp_path, "t")
    outbox.add({"kind": "end", "status": "FINISHED", "time_ms": 5})
    assert json.loads((tmp_path / "t" / "outbox" / "entries.jsonl").read_text()) == {
        "kind": "end", "status": "FINISHED", "time_ms": 5,
    }  # fmt: skip
