"""The MLflow server of the production site with its own command, on SQLite: who may what."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from control_plane import free_port

from sonoray_jobs.cluster.kubernetes.manifests.mlflow_server import mlflow_objects
from sonoray_jobs.cluster.kubernetes.mlflow_accounts import make_accounts
from sonoray_jobs.cluster.kubernetes.site import load_site

PASSWORDS = {name: f"{name}-password-0123456789" for name in ("admin", "writer", "reader")}
API = "/api/2.0/mlflow"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mlflow")
    port = free_port()
    [deployment] = [
        each for each in mlflow_objects(load_site("gpu-prod")[0]) if each["kind"] == "Deployment"
    ]
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    [*shell, script] = container["command"]
    for old, new in {
        "s3://sonoray/mlflow": str(folder / "artifacts"),
        "--port=5000": f"--port={port}",
        "--host=0.0.0.0": "--host=127.0.0.1",
        "--workers=2": "--workers=1",
        "/tmp/metrics": str(folder / "metrics"),
    }.items():
        assert old in script
        script = script.replace(old, new)
    env = {
        **os.environ,
        **{item["name"]: item["value"] for item in container["env"] if "value" in item},
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{folder}/mlflow%20one.db",  # as a password may be
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORDS["admin"],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "k" * 32,
        "MLFLOW_SERVER_ALLOWED_HOSTS": f"127.0.0.1:{port}",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*shell, script], env=env, cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
    uri = f"http://127.0.0.1:{port}"
    try:
        done = make_accounts(uri, PASSWORDS, wait_s=180)
        assert done == ["made the account writer", "made the account reader"]
        yield uri
    except SystemExit as error:
        raise AssertionError(f"{error}\n{(folder / 'log').read_text()[-3000:]}") from None
    finally:
        process.terminate()
        process.wait(timeout=30)


def call(uri: str, account: str | None, method: str, path: str, **given: Any) -> requests.Response:
    auth = (account, PASSWORDS[account]) if account else None
    return requests.request(method, f"{uri}{API}{path}", auth=auth, timeout=30, **given)


def test_nobody_reads_without_an_account(server: str) -> None:
    assert (
        call(server, None, "GET", "/experiments/get", params={"experiment_id": "0"}).status_code
        == 401
    )
    assert requests.get(f"{server}/health", timeout=30).status_code == 200


def test_the_reader_reads_what_the_writer_made_and_changes_nothing(server: str) -> None:
    model = {"name": "llava-ultra-archive"}
    assert call(server, "writer", "POST", "/registered-models/create", json=model).ok
    version = {**model, "source": "s3://sonoray/mlflow/x"}
    assert call(server, "writer", "POST", "/model-versions/create", json=version).ok
    alias = {**model, "alias": "champion", "version": "1"}
    assert call(server, "writer", "POST", "/registered-models/alias", json=alias).ok
    read = call(
        server, "reader", "GET", "/registered-models/alias", params={**model, "alias": "champion"}
    )
    assert read.ok
    assert read.json()["model_version"]["version"] == "1"
    for method, path, given in (
        ("POST", "/registered-models/alias", {**alias, "alias": "canary"}),
        ("DELETE", "/registered-models/alias", {**model, "alias": "champion"}),
        ("DELETE", "/registered-models/delete", model),
        ("PATCH", "/registered-models/update", {**model, "description": "x"}),
    ):
        assert call(server, "reader", method, path, json=given).status_code == 403, path


def test_passwords_are_set_anew_as_often_as_wanted(server: str) -> None:
    done = make_accounts(server, PASSWORDS, wait_s=10)
    assert done == ["set the password of writer", "set the password of reader"]
