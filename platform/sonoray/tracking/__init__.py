"""What MLflow keeps of a road: runs of trainings and evaluations, and the registered models.

- `connection`: where the store is, the first contact, errors in one line.
- `params`: nested configurations as flat parameters, within MLflow's limits.
- `runs`: one run per training whatever restarts, and the results of an evaluation.
- `callback`: the metrics of a training, sent from Ray Train's controller.
- `registry`: exported models by name, version and alias, and the way back to a folder.

`Tracking` is the door to all of it. MLflow takes 2 to 5 s to import and Ray about as long, so both
are imported inside functions and this package costs nothing at `sonoray --help`.
"""

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sonoray.tracking import registry, runs
from sonoray.tracking.connection import (
    Store,
    connect,
    default_uri,
    is_server,
    own_uri,
    shown_uri,
)
from sonoray.tracking.registry import RegisteredVersion
from sonoray.tracking.runs import child_tags
from sonoray.workspace import Workspace

if TYPE_CHECKING:
    from sonoray.tracking.callback import MlflowRunCallback

__all__ = ["DEFAULT_EXPERIMENT", "RegisteredVersion", "Tracking", "child_tags"]

DEFAULT_EXPERIMENT = "sonoray"


@dataclass(frozen=True, kw_only=True, slots=True)
class Tracking:
    """An open MLflow store and the workspace that it serves."""

    workspace: Workspace
    store: Store

    @classmethod
    def open(cls, workspace: Workspace, uri: str | None = None) -> "Tracking":
        """Open the store at `uri`, else `MLFLOW_TRACKING_URI`, else SQLite in the workspace.

        Raises:
            TrackingError: the store does not answer; within 10 s, naming it and the fix.
            DataError: it would be made in a workspace that does not exist.
        """
        uri = uri or default_uri(workspace.root)
        if uri == own_uri(workspace.root):
            workspace.require()
        return cls(workspace=workspace, store=connect(uri))

    @property
    def uri(self) -> str:
        """The store's URI; it may hold a password."""
        return self.store.uri

    @property
    def artifact_root(self) -> Path | None:
        """Folder for the artifacts of new experiments; None where a server decides."""
        return None if is_server(self.uri) else self.workspace.root / "artifacts"

    @property
    def how_to_open(self) -> str:
        """What to type or visit to look at the runs."""
        uri = shown_uri(self.uri)
        if is_server(self.uri):
            return uri
        # typed in a shell of its own, where nothing else keeps MLflow from reporting home
        return f"MLFLOW_DISABLE_TELEMETRY=true mlflow ui --backend-store-uri {shlex.quote(uri)}"

    @contextmanager
    def training(
        self,
        storage_path: str | Path,
        name: str,
        *,
        config: Mapping[str, Any],
        tags: Mapping[str, str] | None = None,
        experiment: str = DEFAULT_EXPERIMENT,
    ) -> Iterator["MlflowRunCallback"]:
        """Hold the MLflow run of the training `storage_path`/`name` open around `fit`.

        ```python
        with tracking.training(storage, name, config=resolved, tags=digests) as callback:
            run_config = RunConfig(storage_path=storage, name=name, callbacks=[callback])
            TorchTrainer(..., run_config=run_config).fit()
        ```

        The run ends as FINISHED, as FAILED where the block raises, as KILLED where it is
        interrupted. The same path and name continue the same run.

        Args:
            storage_path: Ray Train's `storage_path`, local or a URI.
            name: Ray Train's run name.
            config: the resolved configuration, as JSON values.
            tags: digests of the dataset and the towers, and the like.
            experiment: name of the MLflow experiment.

        Raises:
            TrackingError: the store fails before or after the training; never during it.
        """
        from sonoray.tracking.callback import MlflowRunCallback

        run_id = runs.start_training(
            self.store,
            id_file=runs.RunIdFile(storage_path, name),
            name=name,
            config=config,
            tags=tags or {},
            experiment=experiment,
            artifact_root=self.artifact_root,
        )
        with runs.closing_run(self.store, run_id):
            yield MlflowRunCallback(uri=self.uri, run_id=run_id)

    @contextmanager
    def group(
        self,
        name: str,
        *,
        config: Mapping[str, Any],
        tags: Mapping[str, str] | None = None,
        experiment: str = DEFAULT_EXPERIMENT,
    ) -> Iterator[str]:
        """Hold the run that several trainings belong to open, and yield its id.

        The same name continues the same run. It ends as a training's run does.

        Args:
            name: its name, also of its folder among the workspace's runs.
            config: what all its trainings share, as JSON values.
            tags: what else tells it apart.
            experiment: name of the MLflow experiment.

        Raises:
            TrackingError: the store fails.
        """
        run_id = runs.start_training(
            self.store,
            id_file=runs.RunIdFile(self.workspace.runs, name),
            name=name,
            config=config,
            tags=tags or {},
            experiment=experiment,
            artifact_root=self.artifact_root,
        )
        with runs.closing_run(self.store, run_id):
            yield run_id

    def mark_failed(self, run_id: str) -> None:
        """Give a run that was closed the status FAILED.

        Raises:
            TrackingError: the run is unknown or the store fails.
        """
        runs.terminate(self.store, run_id, "FAILED")

    def nest(self, run_id: str, parent_tags: Mapping[str, str]) -> str:
        """Put a run below a parent, unless it has one.

        Args:
            run_id: the run of a training.
            parent_tags: as `child_tags` gives them.

        Returns:
            The id of the parent that it has now.

        Raises:
            TrackingError: the run is unknown or the store fails.
        """
        return runs.nest(self.store, run_id, parent_tags)

    def require_run(self, run_id: str) -> None:
        """Check, before work on its model, that the store knows the run of a training.

        Raises:
            TrackingError: it does not, or the store fails.
        """
        runs.require_run(self.store, run_id)

    def history(self, run_id: str, prefix: str) -> dict[str, list[tuple[int, float]]]:
        """Return how the metrics of a run whose names start with `prefix` went.

        Returns:
            By metric, (step, value) in the order of steps, each step once.

        Raises:
            TrackingError: the run is unknown or the store fails.
        """
        return runs.metric_history(self.store, run_id, prefix)

    def log_evaluation(
        self,
        run_id: str,
        metrics: Mapping[str, Any],
        artifacts: Mapping[str, Any] | None = None,
    ) -> None:
        """Add the results of an evaluation to a run.

        Args:
            run_id: the training that made the model.
            metrics: numbers, nested tables allowed; what is no number is left out.
            artifacts: by artifact path: a `Path` to a local file, text, or a JSON value.

        Raises:
            TrackingError: the run is unknown or the store fails.
        """
        runs.log_results(self.store, run_id, metrics, artifacts or {})

    def register(
        self,
        folder: Path,
        name: str,
        *,
        alias: str,
        run_id: str,
        tags: Mapping[str, str] | None = None,
    ) -> RegisteredVersion:
        """Register an exported model and let `alias` point to it.

        A version whose manifest is the same to the byte is used again, not made anew.

        Args:
            folder: the exported model; its `manifest.json` is its identity.
            name: name of the registered model, made where it does not exist.
            alias: alias to move, as `champion`.
            run_id: the training that made it; the files become artifacts of this run.
            tags: digests to show at the version.

        Raises:
            CheckpointError: the folder has no manifest.
            TrackingError: the name or the alias is not allowed, or the store fails.
        """
        return registry.register(
            self.store, folder, name, alias=alias, run_id=run_id, tags=tags or {}
        )

    def resolve_model(self, model: str | Path) -> Path:
        """Return the local folder of a model.

        Args:
            model: `models:/NAME@ALIAS`, `models:/NAME/VERSION` or a local folder.

        Raises:
            TrackingError: no such model, version or alias; the message lists those that exist.
            CheckpointError: the folder is missing or is not the one that was registered.
        """
        return registry.resolve_model(self.store, str(model), self.workspace.root / "models")
