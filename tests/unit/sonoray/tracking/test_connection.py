import os
import pickle
import shlex
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sonoray.errors import TrackingError
from sonoray.stages import Stage, run_stage
from sonoray.tracking.aliases import move_alias
from sonoray.tracking.connection import Store, open_store, shown_uri
from sonoray.tracking.registry import register, resolve_model
from sonoray.tracking.runs import held_run
from sonoray.workspace import Workspace


def test_package_import_loads_neither_torch_nor_ray_nor_mlflow() -> None:
    heavy = "('torch', 'ray', 'mlflow')"
    code = f"import sys, sonoray.tracking; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_shown_uri_hides_credentials() -> None:
    assert shown_uri("postgresql://u:p@db:5432/m") == "postgresql://***@db:5432/m"
    assert shown_uri("sqlite:////w/mlflow.db") == "sqlite:////w/mlflow.db"


def test_default_store_lies_in_the_workspace_and_is_in_wal_mode(
    store: Store, workspace: Workspace
) -> None:
    path = workspace.root / "mlflow.db"
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    words = shlex.split(store.how_to_open)
    setting, *command = words
    assert setting == "MLFLOW_DISABLE_TELEMETRY=true"
    assert command == ["mlflow", "ui", "--backend-store-uri", f"sqlite:///{path}"]
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_environment_names_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    with pytest.raises(TrackingError, match=r"127\.0\.0\.1:9") as caught:
        open_store(Workspace.open(tmp_path))
    assert "secret" not in str(caught.value)
    assert not (tmp_path / "mlflow.db").exists()


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_server_down_is_told_in_seconds(scheme: str, tmp_path: Path) -> None:
    port = closed_port()
    begin = time.monotonic()
    with pytest.raises(TrackingError, match="Connection refused") as caught:
        open_store(Workspace.open(tmp_path), f"{scheme}://127.0.0.1:{port}")
    assert time.monotonic() - begin < 10
    message = str(caught.value)
    assert f"{scheme}://127.0.0.1:{port}" in message
    assert "MLFLOW_TRACKING_URI" in message
    assert "\n" not in message
    assert str(pickle.loads(pickle.dumps(caught.value))) == message
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


def test_server_that_accepts_and_stays_silent_is_told_in_seconds(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        begin = time.monotonic()
        with pytest.raises(TrackingError, match=str(port)):
            open_store(Workspace.open(tmp_path), f"http://127.0.0.1:{port}")
        assert time.monotonic() - begin < 10


def test_server_that_is_no_mlflow_is_told(tmp_path: Path) -> None:
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Silent(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Silent) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(TrackingError, match="cannot be used"):
            open_store(Workspace.open(tmp_path), f"http://127.0.0.1:{server.server_port}")
        server.shutdown()


def test_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database at all " * 100)
    with pytest.raises(TrackingError, match="not a database"):
        open_store(Workspace.open(tmp_path))


def write_model(folder: Path) -> dict[str, int]:
    (folder / "weights.bin").write_text("w")
    return {"files": 1}


@pytest.mark.slow
def test_server_stores_and_delivers_a_model(tmp_path: Path) -> None:
    """Against a real server the artifacts travel by HTTP and are kept by digest."""
    workspace = Workspace.open(tmp_path / "ws")
    port = closed_port()
    address = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    backend = ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db"]
    artifacts = ["--artifacts-destination", str(tmp_path / "artifacts")]
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", *address, *backend, *artifacts],
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                store = open_store(workspace, f"http://127.0.0.1:{port}")
                break
            except TrackingError:
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.5)
        with held_run(store, workspace.runs, "remote", config={}) as run_id:
            pass
        stage = Stage(name="export", config={})
        exported = run_stage(stage, tmp_path, write_model).path
        version = register(store, exported, "ultra", run_id=run_id)
        move_alias(store, version, "champion")
        folder = resolve_model(store, version.uri, workspace.models)
        assert folder == workspace.root / "models" / version.digest
        assert (folder / "weights.bin").read_text() == "w"
        assert [path.name for path in folder.parent.iterdir()] == [version.digest]
        assert resolve_model(store, "models:/ultra/1", workspace.models) == folder
        with pytest.raises(TrackingError, match="@champion = 1"):
            resolve_model(store, "models:/ultra@nobody", workspace.models)
    finally:
        os.killpg(server.pid, 15)
        server.wait(30)
