"""The MLflow run of a training that ended while MLflow was away, once it is there again.

Such a training has something in place of its run's id. The first later step that reaches MLflow
sends what waits and writes the id into the training's manifest, where all further steps find it.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from sonoray.errors import TrackingError
from sonoray.files.json_files import write_json
from sonoray.stages import MANIFEST, read_manifest
from sonoray.workspace import Workspace
from sonoray_jobs.outputs.find import Made, Trained

if TYPE_CHECKING:
    from sonoray.tracking.connection import Store


def settle(workspace: Workspace, made: Made, tracking_uri: str | None) -> Made:
    """Return a training with its MLflow run; asks MLflow only where that is not known.

    Raises:
        TrackingError: MLflow still is away.
    """
    from sonoray.tracking.connection import open_store
    from sonoray.tracking.runs import PENDING

    if not made.trained.run_id.startswith(PENDING):
        return made
    trained = settle_training(workspace, made.trained, open_store(workspace, tracking_uri))
    return replace(made, trained=trained)


def settle_training(workspace: Workspace, trained: Trained, store: "Store") -> Trained:
    """Return a training with its MLflow run, and write it down.

    Raises:
        TrackingError: the store does not take what waits, or nothing waits and it has no such run.
    """
    from sonoray.tracking.runs import PENDING, settled_run_id

    if not trained.run_id.startswith(PENDING):
        return trained
    name = trained.road.get("train", {}).get("resume") or trained.name
    run_id = settled_run_id(store, workspace.runs, name, trained.run_id)
    if run_id.startswith(PENDING):
        raise TrackingError(
            f"training {trained.name!r} ended while MLflow was away, and what waited for it in "
            f"{str(workspace.runs / name)!r} is gone; train again to have a run"
        )
    folder = trained.checkpoint.parent
    manifest = read_manifest(folder)
    manifest["summary"]["run_id"] = run_id
    write_json(folder / MANIFEST, manifest)
    return replace(trained, run_id=run_id)
