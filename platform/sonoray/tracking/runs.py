"""MLflow runs: one per training, found again by the id that lies with its checkpoints.

A training is its Ray Train storage path and name, so the run's id is kept there
(`<storage_path>/<name>/mlflow_run_id`) and shares the fate of the checkpoints: copied with them,
deleted with them. An id that the store does not know (another server, a deleted run) starts a new
run rather than stop the training.
"""

import logging
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sonoray.config.canonical import content_hash
from sonoray.errors import TrackingError
from sonoray.tracking.connection import TRACKING_URI_VARIABLE, Store, shown_uri
from sonoray.tracking.params import (
    MAX_METRICS_PER_CALL,
    MAX_PARAMS_PER_CALL,
    batches,
    flatten_params,
    scalar_metrics,
)

DEFAULT_EXPERIMENT = "sonoray"
RUN_ID_FILE = "mlflow_run_id"
CONFIG_TAG = "sonoray.config"
PARENT_TAG = "mlflow.parentRunId"
"""MLflow's own name: its tables show the run below the one that this tag names."""

_logger = logging.getLogger(__name__)


class RunIdFile:
    """The file beside a training's checkpoints that names its MLflow run; local or remote."""

    def __init__(self, storage_path: str | Path, name: str) -> None:
        from pyarrow.fs import FileSystem

        self._filesystem, root = FileSystem.from_uri(str(storage_path))
        self._folder = f"{root.rstrip('/')}/{name}"
        self.path = f"{self._folder}/{RUN_ID_FILE}"

    def read(self) -> str | None:
        """Return the run's id, None where the training never ran."""
        try:
            with self._filesystem.open_input_stream(self.path) as stream:
                text: str = stream.read().decode()
        except FileNotFoundError:
            return None
        return text.strip() or None

    def write(self, run_id: str) -> None:
        """Record the run's id, all or nothing."""
        partial = f"{self.path}.{uuid.uuid4().hex[:8]}.partial"
        self._filesystem.create_dir(self._folder, recursive=True)
        with self._filesystem.open_output_stream(partial) as stream:
            stream.write(run_id.encode())
        self._filesystem.move(partial, self.path)


@contextmanager
def held_run(
    store: Store,
    storage_path: str | Path,
    name: str,
    *,
    config: Mapping[str, Any],
    tags: Mapping[str, str] | None = None,
    title: str = "",
    experiment: str = DEFAULT_EXPERIMENT,
) -> Iterator[str]:
    """Hold the run of a training, or of a group of trainings, open around the block.

    ```python
    with held_run(store, storage, name, config=resolved, tags=digests) as run_id:
        callback = MlflowRunCallback(uri=store.uri, run_id=run_id)
        run_config = RunConfig(storage_path=storage, name=name, callbacks=[callback])
        TorchTrainer(..., run_config=run_config).fit()
    ```

    The run ends as FINISHED, as FAILED where the block raises, as KILLED where it is interrupted.
    The same path and name continue the same run.

    Args:
        store: where the run is kept.
        storage_path: Ray Train's `storage_path`, local or a URI.
        name: Ray Train's run name; of a group, the name of its folder beside the trainings.
        config: the resolved configuration, as JSON values.
        tags: digests of the dataset and the towers, and the like.
        title: what MLflow's pages call the run; by default its name.
        experiment: name of the MLflow experiment.

    Yields:
        The id of the run.

    Raises:
        TrackingError: the store fails before or after the block, or the experiment was deleted. A
            failing block keeps its own error; the status that could not be set is logged.
    """
    id_file = RunIdFile(storage_path, name)
    run_id = _begin(store, id_file, title or name, config, tags or {}, experiment)
    try:
        yield run_id
    except BaseException as error:
        status = "FAILED" if isinstance(error, Exception) else "KILLED"
        try:
            terminate(store, run_id, status)
        except TrackingError as second:
            _logger.warning("run %s stays open, it should be %s: %s", run_id, status, second)
        raise
    terminate(store, run_id, "FINISHED")


def child_tags(parent_run_id: str, tags: Mapping[str, str]) -> dict[str, str]:
    """Tags that put a run below `parent_run_id` in MLflow's tables, and `tags` of our own."""
    return {PARENT_TAG: parent_run_id} | {f"sonoray.{key}": value for key, value in tags.items()}


def nest(store: Store, run_id: str, tags: Mapping[str, str]) -> str:
    """Tag a run as a child, unless it is one: a run has one place in MLflow's tables.

    Args:
        store: where the run is kept.
        run_id: the run of a training.
        tags: as `child_tags` gives them.

    Returns:
        The id of the parent that it has now.

    Raises:
        TrackingError: the run is unknown or the store fails.
    """
    with store.guard(f"cannot put run {run_id!r} below another"):
        from mlflow.entities import RunTag

        parent: str | None = store.client.get_run(run_id).data.tags.get(PARENT_TAG)
        if parent is not None:
            return parent
        store.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
    return tags[PARENT_TAG]


def require_run(store: Store, run_id: str) -> None:
    """Check, before work on its model, that the store knows the run of a training.

    Raises:
        TrackingError: it does not, or the store fails.
    """
    with store.guard(f"cannot give run {run_id!r}"):
        if _find_run(store, run_id) is None:
            raise TrackingError(
                f"MLflow store {shown_uri(store.uri)!r} has no run {run_id!r}, which made this "
                f"model; set {TRACKING_URI_VARIABLE} to the store that it was trained with"
            )


def run_of_model(
    store: Store, run_id: str, *, name: str, experiment: str, tags: Mapping[str, str]
) -> str:
    """Return the run that shows the results of a model: its training's, or one of its own.

    A model that came from another house was trained under a run that this store does not know. Its
    results get a run here, the same one for the same model.

    Args:
        store: where the results go.
        run_id: the run of the training.
        name: of the run that is made.
        experiment: where it is made.
        tags: what tells the model; by them the run is found again.

    Raises:
        TrackingError: the store fails, or the experiment was deleted.
    """
    with store.guard(f"cannot give a run for the results of model {name!r}"):
        if _find_run(store, run_id) is not None:
            return run_id
        experiment_id = _experiment_id(store, experiment)
        wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        found = store.client.search_runs([experiment_id], filter_string=wanted, max_results=1)
        run = (
            found[0] if found else store.client.create_run(experiment_id, run_name=name, tags=tags)
        )
        made: str = run.info.run_id
        store.client.set_terminated(made, "FINISHED")
    return made


def metric_history(store: Store, run_id: str, prefix: str) -> dict[str, list[tuple[int, float]]]:
    """Return how the metrics of a run whose names start with `prefix` went.

    A resumed training may report a step twice; the later report counts.

    Returns:
        By metric, (step, value) in the order of steps, each step once.

    Raises:
        TrackingError: the run is unknown or the store fails.
    """
    with store.guard(f"cannot give the metrics of run {run_id!r}"):
        names = sorted(store.client.get_run(run_id).data.metrics)
        found = {}
        for name in names:
            if name.startswith(prefix):
                points = store.client.get_metric_history(run_id, name)
                points = sorted(points, key=lambda point: (point.step, point.timestamp))
                found[name] = list({point.step: float(point.value) for point in points}.items())
    return found


def log_results(
    store: Store,
    run_id: str,
    metrics: Mapping[str, Any],
    artifacts: Mapping[str, Any] | None = None,
) -> None:
    """Add the results of an evaluation to a run, which may be closed.

    Args:
        store: where the run is kept.
        run_id: the training that made the model.
        metrics: numbers, nested tables allowed; what is no number is left out.
        artifacts: by artifact path: a `Path` to a local file, text, or a JSON value.

    Raises:
        TrackingError: the run is unknown or the store fails.
    """
    with store.guard(f"cannot add results to run {run_id!r}"):
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        items = [Metric(key, value, now_ms, 0) for key, value in scalar_metrics(metrics).items()]
        for batch in batches(items, MAX_METRICS_PER_CALL):
            store.client.log_batch(run_id, metrics=batch)
        for path, value in (artifacts or {}).items():
            if isinstance(value, Path):
                folder = Path(path).parent.as_posix()
                store.client.log_artifact(run_id, str(value), None if folder == "." else folder)
            elif isinstance(value, str):
                store.client.log_text(run_id, value, path)
            else:
                store.client.log_dict(run_id, value, path)


def terminate(store: Store, run_id: str, status: str) -> None:
    """Close a run with a status.

    Raises:
        TrackingError: the run is unknown or the store fails.
    """
    what = f"cannot mark run {run_id!r} as {status} (run the command again to do so)"
    with store.guard(what):
        store.client.set_terminated(run_id, status)


def _begin(
    store: Store,
    id_file: RunIdFile,
    name: str,
    config: Mapping[str, Any],
    tags: Mapping[str, str],
    experiment: str,
) -> str:
    """Continue the run that the file names or begin one; log its configuration."""
    with store.guard(f"cannot hold the run of training {name!r}"):
        run = _recorded_run(store, id_file)
        if run is None:
            experiment_id = _experiment_id(store, experiment)
            run = store.client.create_run(experiment_id, run_name=name)
            id_file.write(run.info.run_id)
        run_id: str = run.info.run_id
        store.client.update_run(run_id, status="RUNNING")
        _log_config(store, run, config, tags)
    return run_id


def _recorded_run(store: Store, id_file: RunIdFile) -> Any:  # noqa: ANN401 - an mlflow Run
    """Return the run that the file names, None where there is none to continue."""
    run_id = id_file.read()
    if run_id is None:
        return None
    run = _find_run(store, run_id)
    if run is None:
        _logger.warning("MLflow has no run %s, named by %s; a new one", run_id, id_file.path)
    return run


def _find_run(store: Store, run_id: str) -> Any | None:  # noqa: ANN401 - an mlflow Run
    """Return a run, None where the store does not know it or it was deleted."""
    from mlflow.exceptions import MlflowException

    try:
        run = store.client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return run if run.info.lifecycle_stage == "active" else None


def _experiment_id(store: Store, name: str) -> str:
    from mlflow.exceptions import MlflowException

    experiment = store.client.get_experiment_by_name(name)
    if experiment is None:
        root = store.artifact_root
        location = None if root is None else (root / name).as_uri()
        try:
            return str(store.client.create_experiment(name, artifact_location=location))
        except MlflowException as error:  # another process was first
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        experiment = store.client.get_experiment_by_name(name)
    if experiment.lifecycle_stage != "active":
        raise TrackingError(
            f"MLflow experiment {name!r} was deleted; restore it with: "
            f"mlflow experiments restore --experiment-id {experiment.experiment_id}"
        )
    return str(experiment.experiment_id)


def _log_config(
    store: Store,
    run: Any,  # noqa: ANN401 - an mlflow Run
    config: Mapping[str, Any],
    tags: Mapping[str, str],
) -> None:
    """Log the configuration as parameters, as an artifact and as a hash among the tags.

    MLflow's parameters cannot change, so a continued run keeps those of its first attempt and gets
    a further `config-<hash>.json`; the tag names the newest.
    """
    from mlflow.entities import Param, RunTag

    run_id = run.info.run_id
    digest = content_hash(config)[:12]
    if run.data.tags.get(CONFIG_TAG) != digest:
        store.client.log_dict(run_id, dict(config), f"config-{digest}.json")
    known = run.data.params
    params = flatten_params(config)
    changed = sorted(key for key, value in params.items() if known.get(key, value) != value)
    if changed:
        _logger.warning("run %s continues with other values of %s", run_id, ", ".join(changed))
    new = [Param(key, value) for key, value in params.items() if key not in known]
    for batch in batches(new, MAX_PARAMS_PER_CALL):
        store.client.log_batch(run_id, params=batch)
    labels = [RunTag(key, value) for key, value in ({**tags, CONFIG_TAG: digest}).items()]
    for tag_batch in batches(labels, MAX_PARAMS_PER_CALL):
        store.client.log_batch(run_id, tags=tag_batch)
