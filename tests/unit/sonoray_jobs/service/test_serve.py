"""What `serve` refuses before anything is started, and how it names the fix."""

import json
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llava_ultra.testing import tiny_artifact
from sonoray.errors import (
    CheckpointError,
    ConfigError,
    ServingError,
    SonoError,
    TrackingError,
)
from sonoray.tracking.connection import open_store
from sonoray.tracking.registry import manifest_digest, register
from sonoray.tracking.runs import held_run
from sonoray.workspace import Workspace
from sonoray_jobs.road.config import load_road
from sonoray_jobs.service import serve as job
from sonoray_jobs.service.listening import free_port
from sonoray_jobs.service.serve import check_routing, needed_precisions
from sonoray_serve.app import AppArgs, ServeConfig
from sonoray_serve.replicas.loading import ModelSource, load_model, resolve_folder
from sonoray_serve.settings import Replicas

KEYS = ("unit-test-key-0123456789",)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "model"
    tiny_artifact(folder)
    return folder


@pytest.fixture(autouse=True)
def nothing_started() -> Iterator[None]:
    def running() -> bool:
        ray = sys.modules.get("ray")
        return ray is not None and ray.is_initialized()

    before = running()
    yield
    assert running() == before


def refused(tmp_path: Path, model: object, **options: Any) -> SonoError:
    """Start a service that must not come up."""
    workspace = Workspace.open(tmp_path / "workspace")
    with pytest.raises(SonoError) as caught:
        job.serving(workspace=workspace, model=str(model), port=free_port(), **options).__enter__()
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return caught.value


def test_no_keys_are_refused(tmp_path: Path):
    error = refused(tmp_path, "unused")
    assert isinstance(error, ConfigError)
    assert "--api-key-file" in str(error)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3"])
def test_no_keys_on_an_address_that_others_reach_are_refused(tmp_path: Path, host: str):
    error = refused(tmp_path, "unused", insecure_local=True, host=host)
    assert isinstance(error, ConfigError)
    assert repr(host) in str(error)


def test_key_file_is_checked_first(tmp_path: Path):
    keys = tmp_path / "keys"
    keys.write_text(KEYS[0])
    keys.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        job.run(
            workspace=Workspace.open(tmp_path / "w"),
            road=load_road("tiny"),
            model="unused",
            api_key_file=keys,
        )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dicomweb": "pacs"}, "serve.dicomweb = 'pacs': the DICOMweb address is no http"),
        ({"feedback": "nosuch://db/x"}, "serve.feedback: nosuch://... is no database URL"),
    ],
)
def test_an_address_that_is_none_is_named_before_the_model_is_loaded(
    tmp_path: Path, settings: dict[str, str], said: str
):
    config = ServeConfig(**settings)
    error = refused(tmp_path, "unused", insecure_local=True, config=config)
    assert isinstance(error, ConfigError)
    assert said in str(error)


def test_taken_port_is_named(tmp_path: Path, model_folder: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        workspace = Workspace.open(tmp_path / "workspace")
        service = job.serving(
            workspace=workspace, model=str(model_folder), port=port, api_keys=KEYS
        )
        with pytest.raises(ServingError, match=rf"port {port} .*in use.*--port"):
            service.__enter__()


@pytest.mark.parametrize("missing", ["nothing", "empty"])
def test_missing_model_is_named(tmp_path: Path, missing: str):
    folder = tmp_path / missing
    if missing == "empty":
        folder.mkdir()
    error = refused(tmp_path, folder, api_keys=KEYS)
    assert isinstance(error, CheckpointError)
    assert str(folder) in str(error)


def change_weights(folder: Path) -> str:
    """Flip one bit of the connector's last weight; the file stays a valid one."""
    path = folder / "connector.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    return "connector.safetensors"


def change_tower(folder: Path) -> str:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["digests"]["clip"] = "0" * 64
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return "0000000000000000"


def damage_weights(folder: Path) -> str:
    path = folder / "adapter.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    return str(folder)


@pytest.mark.parametrize("change", [change_weights, change_tower, damage_weights])
def test_model_that_is_not_what_its_manifest_says_is_refused(
    tmp_path: Path, model_folder: Path, change: Any
):
    folder = tmp_path / "changed"
    shutil.copytree(model_folder, folder)
    expected = change(folder)
    error = refused(tmp_path, folder, api_keys=KEYS)
    assert isinstance(error, CheckpointError)
    assert expected in str(error)


def test_changed_weights_are_reported_with_both_digests(tmp_path: Path, model_folder: Path):
    folder = tmp_path / "changed"
    shutil.copytree(model_folder, folder)
    change_weights(folder)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    error = str(refused(tmp_path, folder, api_keys=KEYS))
    assert manifest["digests"]["connector"][:16] in error
    assert "digest" in error
    assert "expected" in error


@pytest.mark.slow
def test_registered_model_that_changed_afterwards_is_refused(
    tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    workspace = Workspace.open(tmp_path / "workspace")
    store = open_store(workspace)
    with held_run(store, workspace.runs, "training", config={}) as run_id:
        pass
    version = register(store, model_folder, "llava-ultra", run_id=run_id)
    stored = resolve_folder(version.uri, workspace.root)
    assert manifest_digest(stored) == manifest_digest(model_folder)
    change_weights(stored)
    error = refused(tmp_path, version.uri, api_keys=KEYS)
    assert isinstance(error, CheckpointError)
    assert str(stored / "connector.safetensors") in str(error)
    unknown = refused(tmp_path, "models:/llava-ultra@other", api_keys=KEYS)
    assert isinstance(unknown, TrackingError)
    assert "versions 1" in str(unknown)


def test_replica_refuses_another_model_than_the_checked_one(model_folder: Path):
    source = ModelSource(model=str(model_folder), digest="0" * 64, workspace="", device="cpu")
    with pytest.raises(CheckpointError, match=manifest_digest(model_folder)[:16]):
        load_model(source)


def test_the_engine_needs_no_precision_of_the_towers():
    vision = Replicas(num_cpus=1, num_gpus=1, max_ongoing=1, max_queued=1)
    args = AppArgs(model="m", insecure_local=True, config=ServeConfig(vision=vision))
    manifest = {"precision": {"towers": "bfloat16", "model": "float32"}}
    assert needed_precisions(args, manifest) == [
        ("bfloat16", True),  # towers, on vision's GPU
        ("float32", True),  # the fusion
        ("float32", False),  # the decoder, on the engine's CPU
    ]
    forced = args.model_copy(update={"config": ServeConfig(precision="bfloat16")})
    assert {precision for precision, _ in needed_precisions(forced, manifest)} == {"bfloat16"}


CARD = {
    "teacher": "phantom-1",
    "towers": {},
    "topics": {"pathology": ["a", "b"]},
    "questions": {"pathology": ["?"]},
}
ROUTES = [{"least_confidence": 0.8, "lost": 0.015, "share": 0.5}]


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        ({}, "serve.student_budget = 0.02, and the model was exported without a student; run"),
        ({"student": CARD}, "the student of 'phantom-1' had too few patients"),
    ],
)
def test_a_budget_for_a_student_that_cannot_use_it_is_refused(manifest, reason):
    with pytest.raises(ConfigError, match=reason):
        check_routing(manifest, 0.02)
    check_routing(manifest, None)


def test_it_is_said_how_sure_the_student_must_be(caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO", logger="sonoray_jobs.service.serve")
    for budget in (0.02, 0.01):
        check_routing({"student": {**CARD, "routes": ROUTES}}, budget)
    assert "answers for the model where it is sure to 0.800 or more" in caplog.messages[0]
    assert "never answers for the model" in caplog.messages[1]
    assert "0.0150" in caplog.messages[1]


def test_a_damaged_student_is_refused_before_anything_starts(tmp_path: Path):
    folder = tmp_path / "model"
    tiny_artifact(folder, with_student=True)
    shutil.copyfile(folder / "connector.safetensors", folder / "student" / "student.safetensors")
    error = refused(tmp_path, folder, insecure_local=True)
    assert isinstance(error, CheckpointError)
    assert "holds no student" in str(error)
