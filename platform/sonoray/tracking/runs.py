"""MLflow runs: one per training, found again by the id that lies with its checkpoints.

What a run shall hold goes to an outbox on disk (`outbox`) and from there to MLflow (`delivery`), so
that a training neither waits for a server nor loses anything to it. `held_run` is the driver's end:
it begins the run and ends it. The values in between come from Ray Train's controller (`callback`).
"""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sonoray.errors import TrackingAwayError, TrackingError
from sonoray.tracking.connection import TRACKING_URI_VARIABLE, Store, shown_uri
from sonoray.tracking.delivery import deliver, experiment_id, find_run, outbox_of
from sonoray.tracking.outbox import Outbox
from sonoray.tracking.params import MAX_METRICS_PER_CALL, batches, scalar_metrics
from sonoray.tracking.run_id import RunIdFile

DEFAULT_EXPERIMENT = "sonoray"
PARENT_TAG = "mlflow.parentRunId"
"""MLflow's own name: its tables show the run below the one that this tag names."""
PENDING = "pending-"
"""Beginning of what stands for the id of a run that MLflow does not have yet."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunDataset:
    """The dataset that a run works on, as MLflow's pages show it."""

    name: str
    digest: str
    source: str
    """What read it, as `sonoray ingest SOURCE` names it."""


@contextmanager
def held_run(
    store: Store,
    storage_path: str | Path,
    name: str,
    *,
    config: Mapping[str, Any],
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    dataset: RunDataset | None = None,
    title: str = "",
    experiment: str = DEFAULT_EXPERIMENT,
) -> Iterator[str]:
    """Hold the run of a training, or of a group of trainings, open around the block.

    ```python
    with held_run(store, storage, name, config=resolved, tags=digests) as run_id:
        callback = MlflowRunCallback(store=store, storage_path=storage, name=name)
        run_config = RunConfig(storage_path=storage, name=name, callbacks=[callback])
        TorchTrainer(..., run_config=run_config).fit()
    ```

    The run ends as FINISHED, as FAILED where the block raises, as KILLED where it is interrupted.
    The same path and name continue the same run. A store that is away stops nothing: what it should
    hold waits in the outbox.

    Args:
        store: where the run is kept; may be away.
        storage_path: Ray Train's `storage_path`, a folder.
        name: Ray Train's run name; of a group, the name of its folder beside the trainings.
        config: the resolved configuration, as JSON values; kept as a file.
        params: what of it made the run, as JSON values; by default all. They become parameters.
        tags: digests of the dataset and the towers, and the like.
        dataset: what it works on.
        title: what MLflow's pages call the run; by default its name.
        experiment: name of the MLflow experiment.

    Yields:
        The id of the run; where the store is away and never had it, `PENDING` with an identity by
        which `settled_run_id` finds it later.

    Raises:
        TrackingError: the store refuses the run before the block, as where the experiment was
            deleted.
    """
    outbox = outbox_of(storage_path, name)
    outbox.identity()
    begun = outbox.size()
    outbox.add(
        {"kind": "begin", "experiment": experiment, "title": title or name, "time_ms": _now_ms()},
        {"kind": "config", "config": dict(config), "params": dict(params or config)},
        *([{"kind": "dataset", **asdict(dataset)}] if dataset else []),
        {"kind": "tags", "tags": dict(tags or {})},
    )
    try:
        _try_to_deliver(outbox, store)
    except TrackingError:
        outbox.retract(begun)
        raise
    try:
        yield current_run_id(storage_path, name)
    except BaseException as error:
        _end(outbox, store, "FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    _end(outbox, store, "FINISHED")


def current_run_id(storage_path: str | Path, name: str) -> str:
    """The id of a training's run, or what stands for it until MLflow has it."""
    known = RunIdFile(storage_path, name).read()
    return known or f"{PENDING}{outbox_of(storage_path, name).identity()}"


def settled_run_id(store: Store, storage_path: str | Path, name: str, run_id: str) -> str:
    """The id of a training's run, after what waits of it was sent.

    Args:
        store: where it belongs.
        storage_path: folder of the trainings.
        name: of the training.
        run_id: what is known of it.

    Raises:
        TrackingError: the store does not take what waits.
    """
    outbox = outbox_of(storage_path, name)
    if outbox.num_waiting():
        deliver(outbox, store)
        outbox.clear()
    if run_id.startswith(PENDING):
        return RunIdFile(storage_path, name).read() or run_id
    return run_id


def _end(outbox: Outbox, store: Store, status: str) -> None:
    """Close the run; where the store is away or fails, later."""
    outbox.add({"kind": "end", "status": status, "time_ms": _now_ms()})
    try:
        _try_to_deliver(outbox, store)
    except TrackingError as error:
        _logger.warning("the run should be %s in MLflow and waits to be: %s", status, error)
    if status == "FINISHED":
        outbox.clear()


def _try_to_deliver(outbox: Outbox, store: Store) -> None:
    """Send what waits; a store that is away gets it later, and a line says so.

    Raises:
        TrackingError: the store is there and fails.
    """
    try:
        deliver(outbox, store.again())
    except TrackingAwayError as error:
        _logger.warning(
            "%s; %d entries wait in %s for the next sonoray command that reaches MLflow",
            error,
            outbox.num_waiting(),
            outbox.folder,
        )


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


def end_killed(store: Store, storage_path: str | Path, name: str, tags: Mapping[str, str]) -> None:
    """Close the run of a training whose process was ended from outside.

    Args:
        store: where the run is kept.
        storage_path: folder of the trainings.
        name: of the training.
        tags: why it was.

    Raises:
        TrackingError: the store is there and fails.
    """
    outbox = outbox_of(storage_path, name)
    outbox.add(
        {"kind": "tags", "tags": dict(tags)},
        {"kind": "end", "status": "KILLED", "time_ms": _now_ms()},
    )
    _try_to_deliver(outbox, store)


def require_run(store: Store, run_id: str) -> None:
    """Check, before work on its model, that the store knows the run of a training.

    Raises:
        TrackingError: it does not, or the store fails.
    """
    with store.guard(f"cannot give run {run_id!r}"):
        if find_run(store, run_id) is None:
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
        if find_run(store, run_id) is not None:
            return run_id
        place = experiment_id(store, experiment)
        wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        found = store.client.search_runs([place], filter_string=wanted, max_results=1)
        run = found[0] if found else store.client.create_run(place, run_name=name, tags=tags)
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

        now_ms = _now_ms()
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


def _now_ms() -> int:
    return int(time.time() * 1000)
