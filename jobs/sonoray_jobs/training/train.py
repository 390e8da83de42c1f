"""Train: Ray Train workers with DeepSpeed, one MLflow run, resumable by rerunning the command.

The run's name is the hash of everything that decides the outcome, so the same command finds its own
checkpoints: after a crash it goes on, after the end it is a no-op.
"""

import fcntl
import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sonoray.errors import ConfigError, DataError, JobFailedError
from sonoray.files.json_files import write_json
from sonoray.workspace import Workspace
from sonoray_jobs.data.context_length import check_lengths, read_tokenizer
from sonoray_jobs.outputs import RESULT, Trained, find_parts, open_stores, read_result, run_name
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.road.train_config import TrainConfig
from sonoray_jobs.towers.stores import features_root, read_image_ids, tower_fingerprints
from sonoray_jobs.training.deepspeed_ops import prebuild_communication
from sonoray_jobs.training.studies import iter_training_studies
from sonoray_jobs.training.worker import TrainJob

if TYPE_CHECKING:
    from ray.train import Result

    from sonoray.cluster.step_board import StepBoard
    from sonoray.tracking.callback import MlflowRunCallback

_LOCK = ".lock"

_MAX_FAILED_STARTS = 5
"""How often Ray Train tries again, after a minute each, to get the workers' resources; by default
it tries for ever."""


def run(
    *,
    workspace: Workspace,
    road: RoadConfig,
    dataset: str,
    address: str | None = None,
    tracking_uri: str | None = None,
    tags: Mapping[str, str] | None = None,
    board: "StepBoard | None" = None,
) -> Trained:
    """Train the road's model, or go on with it, or return it where it is finished.

    Args:
        workspace: where everything lies.
        road: the configuration.
        dataset: name of the dataset.
        address: Ray cluster.
        tracking_uri: MLflow store; by default that of the environment or of the workspace.
        tags: further tags of the MLflow run of a training that is not finished yet.
        board: where its steps are shown; by default on stderr.

    Raises:
        DataError: an earlier step is missing, a text does not fit the context, or `train.only` and
            `train.site_cue` do not fit.
        ConfigError: the workers would leave no CPU for Ray Data.
        ClusterError: the cluster cannot be reached or is too small.
        TrackingError: MLflow cannot be reached.
        JobFailedError: the training itself failed, or another process is at it.
    """
    output = workspace.dataset(dataset)
    parts = find_parts(workspace, road, dataset)
    name = run_name(road, output, parts)
    finished = read_result(workspace, name)
    if finished is not None:
        return finished
    stores = open_stores(workspace, road, dataset)
    image_ids = read_image_ids(output.path)
    for tower, store in stores.items():
        lacking = len(store.missing(image_ids))
        if lacking:
            raise DataError(
                f"{lacking} of {len(image_ids)} images have no {tower} features; run: "
                f"sonoray embed --dataset {dataset} with the same --config and --set"
            )
    studies = iter_training_studies(output.path, road.train)
    check_lengths(
        read_tokenizer(parts["language"].path),
        studies,
        road.model,
    )
    fingerprints = tower_fingerprints(parts)
    job = TrainJob(
        model=road.model,
        train=road.train,
        feature_format=road.embed.dtype,
        dataset=output.path,
        language=parts["language"].path,
        features=features_root(workspace, road),
        fingerprints=fingerprints,
    )

    import ray

    from sonoray.cluster.session import ray_session, require_cpus
    from sonoray.tracking.callback import MlflowRunCallback
    from sonoray.tracking.connection import open_store
    from sonoray.tracking.runs import held_run

    tracking = open_store(workspace, tracking_uri)
    all_tags = {"sonoray.dataset": output.key[:16], "sonoray.run": name, **(tags or {})} | {
        f"sonoray.{tower}": fingerprint[:16] for tower, fingerprint in fingerprints.items()
    }
    with ray_session(address), ExitStack() as stack:
        check_cpus(road, ray.cluster_resources().get("CPU", 0))  # type: ignore[no-untyped-call]
        stack.enter_context(sole_training(workspace.runs / name))
        finished = read_result(workspace, name)  # another process may just have ended it
        if finished is not None:
            return finished
        num_workers = road.train.num_workers
        require_cpus(
            num_workers * road.train.cpus_per_worker,
            "training",
            num_gpus=num_workers * road.train.gpus_per_worker,
        )
        prebuild_communication()
        with held_run(
            tracking,
            workspace.runs,
            name,
            config=road.model_dump(mode="json"),
            tags=all_tags,
            experiment=road.experiment,
        ) as run_id:
            callback = MlflowRunCallback(uri=tracking.uri, run_id=run_id)
            start = time.monotonic()
            result = _fit(job, workspace.runs, name, callback, board)
            if result.error is not None or result.checkpoint is None:
                raise JobFailedError(f"training {name!r} failed: {result.error}")
            trained = Trained(
                name=name,
                run_id=run_id,
                checkpoint=Path(result.checkpoint.path),
                metrics={
                    key: float(value)
                    for key, value in (result.metrics or {}).items()
                    if isinstance(value, (int, float))
                },
                reused=False,
                elapsed_s=time.monotonic() - start,
            )
            write_json(workspace.runs / name / RESULT, trained.to_json())
    return trained


def _fit(
    job: TrainJob,
    storage: Path,
    name: str,
    callback: "MlflowRunCallback",
    board: "StepBoard | None",
) -> "Result":
    """Run the workers to the end of the last stage, from their latest checkpoint on."""
    import ray.train
    from ray.train.torch import TorchTrainer

    from sonoray.cluster.step_board import StepBoard

    settings = job.train
    shown = board or StepBoard.start()
    trainer = TorchTrainer(
        _train_loop,
        train_loop_config={"job": job.model_dump(mode="json"), "board": shown},
        scaling_config=ray.train.ScalingConfig(
            num_workers=settings.num_workers,
            use_gpu=settings.gpus_per_worker > 0,
            resources_per_worker=_worker_resources(job.train),
        ),
        run_config=ray.train.RunConfig(
            storage_path=str(storage),
            name=name,
            callbacks=[callback],  # type: ignore[list-item]
            failure_config=ray.train.FailureConfig(
                max_failures=settings.max_failures,
                controller_failure_limit=_MAX_FAILED_STARTS,  # type: ignore[call-arg]
            ),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
        ),
    )
    with ExitStack() as stack:
        if board is None:
            stack.enter_context(shown.watching())
        stack.enter_context(restored_interrupt())
        return trainer.fit()


@contextmanager
def sole_training(folder: Path) -> Iterator[None]:
    """Hold a training's folder for the block: two at once would mix up its checkpoints.

    Raises:
        JobFailedError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JobFailedError(
                f"training {folder.name!r} is running in another process; wait for it to end, or "
                "stop it, then run the command again to go on with it or to use it"
            ) from None
        yield


@contextmanager
def restored_interrupt() -> Iterator[None]:
    """Put the handler of Ctrl-C back after the block.

    Ray Train sets one of its own, which swallows Ctrl-C for the rest of the process.
    """
    if threading.current_thread() is not threading.main_thread():  # Ray Train sets none there
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def check_cpus(road: RoadConfig, num_cpus: float) -> None:
    """Refuse a config whose workers would starve their own loading.

    Ray Data shares what the workers leave among the running datasets, one per worker, in whole
    CPUs. With less than a task needs it schedules only once the worker already waits, and polls all
    the while.

    Raises:
        ConfigError: workers and their loading actors need more CPUs than the cluster has.
    """
    train = road.train
    workers = train.num_workers * train.cpus_per_worker
    share = (num_cpus - workers) // train.num_workers
    if share < math.ceil(train.data_cpus):
        raise ConfigError(
            f"{train.num_workers} train workers of {train.cpus_per_worker:g} CPUs leave each "
            f"{max(0, share):g} of the cluster's {num_cpus:g} to load its data, and "
            f"train.data_cpus is {train.data_cpus:g}; lower train.data_cpus (0 takes what is "
            "idle), train.cpus_per_worker or train.num_workers, or add nodes"
        )


def _train_loop(config: dict[str, Any]) -> None:
    """Import the real loop on the worker: the driver never needs torch or DeepSpeed."""
    from sonoray_jobs.training.worker import train_loop_per_worker

    train_loop_per_worker(config)


def _worker_resources(train: TrainConfig) -> dict[str, float]:
    resources = {"CPU": train.cpus_per_worker}
    if train.gpus_per_worker:
        resources["GPU"] = train.gpus_per_worker
    return resources
