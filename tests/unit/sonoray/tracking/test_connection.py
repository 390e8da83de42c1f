import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sonoray.errors import TrackingError
from sonoray.stages import Stage, run_stage
from sonoray.tracking import Tracking
from sonoray.tracking.connection import shown_uri
from sonoray.tracking.params import (
    MAX_KEY_LENGTH,
    MAX_VALUE_LENGTH,
    flatten_params,
    scalar_metrics,
)
from sonoray.workspace import Workspace

# params


def test_flatten_params_dots_tables_and_writes_lists_as_json() -> None:
    values = {"train": {"lr": 1e-3, "stages": ["a", "b"], "note": ""}, "x": None, "name": "乳腺"}
    assert flatten_params(values) == {
        "train.lr": "0.001",
        "train.stages": '["a", "b"]',
        "train.note": '""',
        "x": "null",
        "name": "乳腺",
    }


def test_flatten_params_keeps_limits_and_two_long_names_apart() -> None:
    long = "k" * 400
    flat = flatten_params({f"{long}1": "v" * 7000, f"{long}2": 1})
    assert len(flat) == 2
    assert max(map(len, flat)) == MAX_KEY_LENGTH
    assert max(map(len, flat.values())) == MAX_VALUE_LENGTH


names = st.text(st.characters(categories=["L", "N"], include_characters="_-. :(*\"'"), min_size=1)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=10,
)


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.text("ab乳", min_size=1).map("x".__add__), json_values, max_size=4))
def test_flattened_params_are_accepted_by_mlflow(values: dict[str, object]) -> None:
    from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH, _validate_param

    assert MAX_PARAM_VAL_LENGTH == MAX_VALUE_LENGTH
    for key, value in flatten_params(values).items():
        _validate_param(key, value)


def test_scalar_metrics_keeps_numbers_only() -> None:
    values = {"loss": 1, "test": {"auc": 0.5, "note": "x", "gap": None}}
    assert scalar_metrics(values) == {"loss": 1.0, "test.auc": 0.5}


# the way to a store


def test_package_import_loads_neither_torch_nor_ray_nor_mlflow() -> None:
    heavy = "('torch', 'ray', 'mlflow')"
    code = f"import sys, sonoray.tracking; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_shown_uri_hides_credentials() -> None:
    assert shown_uri("postgresql://u:p@db:5432/m") == "postgresql://***@db:5432/m"
    assert shown_uri("sqlite:////w/mlflow.db") == "sqlite:////w/mlflow.db"


def test_environment_names_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    with pytest.raises(TrackingError, match=r"127\.0\.0\.1:9") as caught:
        Tracking.open(Workspace.open(tmp_path))
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
        Tracking.open(Workspace.open(tmp_path), f"{scheme}://127.0.0.1:{port}")
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
            Tracking.open(Workspace.open(tmp_path), f"http://127.0.0.1:{port}")
        assert time.monotonic() - begin < 10


def test_server_that_is_no_mlflow_is_told(tmp_path: Path) -> None:
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Silent(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Silent) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(TrackingError, match="cannot be used"):
            Tracking.open(Workspace.open(tmp_path), f"http://127.0.0.1:{server.server_port}")
        server.shutdown()


def test_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database at all " * 100)
    with pytest.raises(TrackingError, match="not a database"):
        Tracking.open(Workspace.open(tmp_path))


def write_model(folder: Path) -> dict[str, int]:
    (folder / "weights.bin").write_text("w")
    return {"files": 1}


@pytest.mark.slow
def test_server_stores_and_delivers_a_model(tmp_path: Path) -> None:
    """Against a real server the artifacts travel by HTTP and are kept by digest."""
    port = closed_port()
    address = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    store = ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db"]
    artifacts = ["--artifacts-destination", str(tmp_path / "artifacts")]
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", *address, *store, *artifacts],
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
                tracking = Tracking.open(
                    Workspace.open(tmp_path / "ws"), f"http://127.0.0.1:{port}"
                )
                break
            except TrackingError:
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.5)
        with tracking.training(tracking.workspace.runs, "remote", config={}) as callback:
            pass
        stage = Stage(name="export", config={})
        exported = run_stage(stage, tmp_path, write_model).path
        version = tracking.register(exported, "ultra", alias="champion", run_id=callback.run_id)
        folder = tracking.resolve_model(version.uri)
        assert folder == tracking.workspace.root / "models" / version.digest
        assert (folder / "weights.bin").read_text() == "w"
        assert [path.name for path in folder.parent.iterdir()] == [version.digest]
        assert tracking.resolve_model("models:/ultra/1") == folder
        with pytest.raises(TrackingError, match="@champion = 1"):
            tracking.resolve_model("models:/ultra@nobody")
    finally:
        os.killpg(server.pid, 15)
        server.wait(30)
