import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sonoray.errors import CheckpointError, TrackingError
from sonoray.stages import Stage, run_stage
from sonoray.tracking.connection import Store
from sonoray.tracking.registry import (
    find_registered,
    find_version,
    register,
    resolve_model,
    versions_of_run,
)
from sonoray.workspace import Workspace

NewRun = Callable[[str], str]


def export(root: Path, weight: str) -> Path:
    """A folder with a manifest, as an export stage leaves it."""

    def make(folder: Path) -> dict[str, int]:
        (folder / "adapter").mkdir()
        (folder / "adapter" / "weights.bin").write_text(weight)
        return {"files": 1}

    return run_stage(Stage(name="export", config={"weight": weight}), root, make).path


def test_register_and_resolve(
    store: Store, workspace: Workspace, new_run: NewRun, tmp_path: Path
) -> None:
    run_id = new_run("registered")
    one, two = export(tmp_path, "one"), export(tmp_path, "two")
    first = register(store, one, "ultra", run_id=run_id, tags={"tower.clip": "abc"})
    assert (first.version, first.reused, first.uri) == (1, False, "models:/ultra/1")
    found = resolve_model(store, first.uri, workspace.models)
    assert (found / "adapter" / "weights.bin").read_text() == "one"
    made = store.client.get_model_version("ultra", "1")
    assert made.tags == {"tower.clip": "abc", "sonoray.manifest_sha256": first.digest}
    assert made.aliases == []

    second = register(store, two, "ultra", run_id=run_id)
    assert second.version == 2
    moved = resolve_model(store, "models:/ultra/2", workspace.models)
    assert (moved / "adapter" / "weights.bin").read_text() == "two"

    again = register(store, one, "ultra", run_id=run_id)
    assert (again.version, again.reused, again.repaired) == (1, True, False)
    assert len(store.client.search_model_versions("name = 'ultra'")) == 2
    assert resolve_model(store, str(one), workspace.models) == one
    assert versions_of_run(store, run_id) == [
        find_version(store, each.uri) for each in (again, second)
    ]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("models:/ultra2@nobody", ["versions 1", "aliases none"]),
        ("models:/ultra2/7", ["versions 1"]),
        ("models:/unheard@champion", ["ultra2"]),
        ("models:/ultra2", ["models:/NAME@ALIAS"]),
    ],
)
def test_unknown_model_lists_what_exists(
    store: Store,
    workspace: Workspace,
    new_run: NewRun,
    tmp_path: Path,
    model: str,
    words: list[str],
) -> None:
    run_id = new_run("listed")
    register(store, export(tmp_path, "x"), "ultra2", run_id=run_id)
    with pytest.raises(TrackingError) as caught:
        resolve_model(store, model, workspace.models)
    assert all(word in str(caught.value) for word in [*words, model])


def test_bad_folder_name_and_run_are_told(
    store: Store, workspace: Workspace, new_run: NewRun, tmp_path: Path
) -> None:
    run_id = new_run("badly-registered")
    folder = export(tmp_path, "y")
    with pytest.raises(CheckpointError, match="sonoray export"):
        register(store, tmp_path, "m", run_id=run_id)
    with pytest.raises(CheckpointError, match="nowhere"):
        resolve_model(store, str(tmp_path / "nowhere"), workspace.models)
    with pytest.raises(TrackingError, match="a'b"):
        register(store, folder, "a'b", run_id=run_id)
    with pytest.raises(TrackingError, match="f00d"):
        register(store, folder, "never", run_id="f00d")


def test_changed_artifact_is_refused(
    store: Store, workspace: Workspace, new_run: NewRun, tmp_path: Path
) -> None:
    run_id = new_run("tampered")
    version = register(store, export(tmp_path, "z"), "ultra3", run_id=run_id)
    manifest = resolve_model(store, version.uri, workspace.models) / "manifest.json"
    manifest.write_text(manifest.read_text().replace("export", "exp0rt"))
    with pytest.raises(CheckpointError, match="changed"):
        resolve_model(store, version.uri, workspace.models)


@pytest.mark.slow
def test_files_that_mlflow_gc_deleted_come_back_with_the_next_registration(
    store: Store, workspace: Workspace, new_run: NewRun, tmp_path: Path
) -> None:
    run_id = new_run("collected")
    folder = export(tmp_path, "kept here")
    version = register(store, folder, "ultra4", run_id=run_id)
    store.client.set_registered_model_alias("ultra4", "champion", "1")
    store.client.delete_run(run_id)
    command = [sys.executable, "-m", "mlflow", "gc", "--backend-store-uri", store.uri]
    subprocess.run(  # MLflow's own, on the run that was deleted above
        [*command, "--run-ids", run_id, "--tracking-uri", store.uri],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    assert store.client.get_model_version_by_alias("ultra4", "champion").status == "READY"
    with pytest.raises(CheckpointError, match="mlflow gc") as caught:
        resolve_model(store, "models:/ultra4@champion", workspace.models)
    assert "sonoray export" in str(caught.value)
    mended = register(store, folder, "ultra4", run_id=run_id)
    assert (mended.version, mended.reused, mended.repaired) == (1, True, True)
    found = resolve_model(store, "models:/ultra4@champion", workspace.models)
    assert (found / "adapter" / "weights.bin").read_text() == "kept here"
    assert find_registered(store, "ultra4", version.digest) == version


def test_a_file_that_is_lacking_or_cut_comes_back(
    store: Store, workspace: Workspace, new_run: NewRun, tmp_path: Path
) -> None:
    run_id = new_run("cut")
    folder = export(tmp_path, "all of it")
    version = register(store, folder, "ultra5", run_id=run_id)
    stored = resolve_model(store, version.uri, workspace.models) / "adapter"
    (stored / "weights.bin").write_text("all")
    assert register(store, folder, "ultra5", run_id=run_id).repaired
    assert (stored / "weights.bin").read_text() == "all of it"
    shutil.rmtree(stored)
    assert register(store, folder, "ultra5", run_id=run_id).repaired
    assert (stored / "weights.bin").read_text() == "all of it"
    assert not register(store, folder, "ultra5", run_id=run_id).repaired


AT_ONCE = """
import sys, time
from pathlib import Path
from sonoray.tracking.connection import connect
from sonoray.tracking.registry import register
uri, folder, run_id, go = sys.argv[1:]
store = connect(uri)
Path(f"{go}.ready").touch() if not Path(f"{go}.ready").exists() else Path(f"{go}.ready2").touch()
while not Path(go).exists():
    time.sleep(0.01)
print(register(store, Path(folder), "twice", run_id=run_id).version)
"""


@pytest.mark.slow
def test_two_registrations_at_once_make_one_version(
    store: Store, new_run: NewRun, tmp_path: Path
) -> None:
    run_id = new_run("twice")
    folder = export(tmp_path, "once")
    go = tmp_path / "go"
    both = [
        subprocess.Popen(
            [sys.executable, "-c", AT_ONCE, store.uri, str(folder), run_id, str(go)],
            stdout=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    while not go.with_name("go.ready2").exists() and all(each.poll() is None for each in both):
        time.sleep(0.05)
    go.touch()
    assert [each.communicate(timeout=120)[0].strip() for each in both] == ["1", "1"]
    assert len(store.client.search_model_versions("name = 'twice'")) == 1


def test_the_later_of_two_versions_gives_way(
    store: Store, workspace: Workspace, new_run: NewRun, tmp_path: Path, monkeypatch
) -> None:
    """The race as it can be forced: another process makes its version while this one uploads."""
    from sonoray.tracking import registry

    run_id = new_run("late")
    folder = export(tmp_path, "late")
    put = registry.put_files

    def put_while_another_registers(store: Store, source: str, given: Path) -> None:
        put(store, source, given)
        monkeypatch.setattr(registry, "put_files", put)
        assert register(store, folder, "late", run_id=run_id).version == 1

    monkeypatch.setattr(registry, "put_files", put_while_another_registers)
    version = register(store, folder, "late", run_id=run_id)
    assert (version.version, version.reused) == (1, True)
    assert len(store.client.search_model_versions("name = 'late'")) == 1
    assert resolve_model(store, "models:/late/1", workspace.models).is_dir()
