"""The registered model that a command means: by its address, or by the training that made it."""

from sonoray.errors import ConfigError, TrackingError
from sonoray.workspace import Workspace
from sonoray_jobs.outputs.named_runs import find_run


def model_of(workspace: Workspace, model: str | None, run: str | None, usual: str = "") -> str:
    """Return the address of the model that a command means.

    Args:
        workspace: where its training lies.
        model: what the command was told, `models:/...` or a folder.
        run: the training that made it, by name; its newest version counts.
        usual: the address where neither is given.

    Raises:
        ConfigError: both are given, or neither.
        DataError: there is no finished training of that name.
        TrackingError: it was never exported.
    """
    if model is not None and run is not None:
        raise ConfigError(f"model {model} and --run {run} both name one; leave one out")
    if model is not None:
        return model
    if run is None:
        if usual:
            return usual
        raise ConfigError("no model; name one as models:/NAME/VERSION, or its training with --run")
    from sonoray.tracking.connection import open_store
    from sonoray.tracking.registry import versions_of_run

    trained = find_run(workspace, run).trained
    versions = versions_of_run(open_store(workspace), trained.run_id)
    if not versions:
        raise TrackingError(
            f"training {trained.name!r} is not registered; run: sonoray export --run {trained.name}"
        )
    return max(versions, key=lambda version: version.version).uri
