from collections.abc import Callable
from pathlib import Path

import pytest

from sonoray.errors import CheckpointError, TrackingError
from sonoray.stages import Stage, run_stage
from sonoray.tracking.connection import Store
from sonoray.tracking.registry import register, resolve_model
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
    first = register(
        store, one, "ultra", alias="champion", run_id=run_id, tags={"tower.clip": "abc"}
    )
    assert (first.version, first.reused, first.uri) == (1, False, "models:/ultra@champion")
    found = resolve_model(store, first.uri, workspace.models)
    assert (found / "adapter" / "weights.bin").read_text() == "one"
    tags = store.client.get_model_version("ultra", "1").tags
    assert tags == {"tower.clip": "abc", "sonoray.manifest_sha256": first.digest}

    second = register(store, two, "ultra", alias="champion", run_id=run_id)
    assert second.version == 2
    moved = resolve_model(store, "models:/ultra@champion", workspace.models)
    assert (moved / "adapter" / "weights.bin").read_text() == "two"
    old = resolve_model(store, "models:/ultra/1", workspace.models)
    assert (old / "adapter" / "weights.bin").read_text() == "one"

    again = register(store, one, "ultra", alias="champion", run_id=run_id)
    assert (again.version, again.reused) == (1, True)
    assert len(store.client.search_model_versions("name = 'ultra'")) == 2
    assert resolve_model(store, "models:/ultra@champion", workspace.models) == found
    assert resolve_model(store, str(one), workspace.models) == one


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
    store: Store,
    workspace: Workspace,
    new_run: NewRun,
    tmp_path: Path,
    model: str,
    words: list[str],
) -> None:
    run_id = new_run("listed")
    register(store, export(tmp_path, "x"), "ultra2", alias="champion", run_id=run_id)
    with pytest.raises(TrackingError) as caught:
        resolve_model(store, model, workspace.models)
    assert all(word in str(caught.value) for word in [*words, model])


def test_bad_folder_name_alias_and_run_are_told(
    store: Store, workspace: Workspace, new_run: NewRun, tmp_path: Path
) -> None:
    run_id = new_run("badly-registered")
    folder = export(tmp_path, "y")
    with pytest.raises(CheckpointError, match="sonoray export"):
        register(store, tmp_path, "m", alias="champion", run_id=run_id)
    with pytest.raises(CheckpointError, match="nowhere"):
        resolve_model(store, str(tmp_path / "nowhere"), workspace.models)
    with pytest.raises(TrackingError, match="a'b"):
        register(store, folder, "a'b", alias="champion", run_id=run_id)
    with pytest.raises(TrackingError, match="v1"):
        register(store, folder, "m", alias="v1", run_id=run_id)
    with pytest.raises(TrackingError, match="f00d"):
        register(store, folder, "never", alias="champion", run_id="f00d")


def test_changed_artifact_is_refused(
    store: Store, workspace: Workspace, new_run: NewRun, tmp_path: Path
) -> None:
    run_id = new_run("tampered")
    version = register(store, export(tmp_path, "z"), "ultra3", alias="champion", run_id=run_id)
    manifest = resolve_model(store, version.uri, workspace.models) / "manifest.json"
    manifest.write_text(manifest.read_text().replace("export", "exp0rt"))
    with pytest.raises(CheckpointError, match="changed"):
        resolve_model(store, version.uri, workspace.models)
