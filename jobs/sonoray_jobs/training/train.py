"""Train: Ray Train workers with DeepSpeed, one MLflow run, resumable by rerunning the command.

A finished training is a stage of the workspace (`outputs.training_stage`) and holds its checkpoint.
While it goes, Ray Train keeps checkpoints in `runs/<name>`; the name is the hash of everything that
decides the outcome, so the same command finds them: after a crash it goes on, after the end it is a
no-op. What other code left unfinished is named (`unfinished`).
"""

import logging
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from sonoray.errors import ConfigError, DataError, JobFailedError
from sonoray.stages import run_stage
from sonoray.study.sample_order import Plan
from sonoray.workspace import Workspace
from sonoray_jobs.data.context_length import check_lengths, read_tokenizer
from sonoray_jobs.outputs.find import (
    CHECKPOINT,
    Trained,
    find_parts,
    find_training,
    open_stores,
    training_name,
    training_stage,
)
from sonoray_jobs.outputs.recorded import recorded_settings, run_dataset
from sonoray_jobs.outputs.run_title import run_title
from sonoray_jobs.outputs.stores import features_root, read_image_ids, tower_fingerprints
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.road.train_config import TrainConfig
from sonoray_jobs.training.deepspeed_ops import prebuild_communication
from sonoray_jobs.training.stream import loader_room
from sonoray_jobs.training.studies import iter_training_studies, training_index
from sonoray_jobs.training.unfinished import (
    LOCK,
    check_resumable,
    clear_working_folder,
    find_unfinished,
    has_checkpoint,
    record_of,
    write_record,
)
from sonoray_jobs.training.worker import TrainJob

if TYPE_CHECKING:
    from ray.train import Result

    from sonoray.cluster.step_board import StepBoard
    from sonoray.tracking.callback import MlflowRunCallback

logger = logging.getLogger(__name__)

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
        ConfigError: the workers would leave no CPU for Ray Data, or `train.resume` names none that
            may be gone on with.
        ClusterError: the cluster cannot be reached or is too small.
        TrackingError: MLflow refuses the run; one that is away stops nothing.
        JobFailedError: the training itself failed, or another process is at it.
    """
    output = workspace.dataset(dataset)
    parts = find_parts(workspace, road, dataset)
    stage = training_stage(road, output, parts)
    name = training_name(stage)
    if stage.is_made(workspace.stages):
        _tidy(workspace.runs / (road.train.resume or name), road)
        return find_training(workspace, road, dataset)
    check_steps(len(training_index(output.path, road.train)), road.train)
    record = record_of(stage, {"dataset": output, **parts})
    work = _working_folder(workspace, road, name, record)
    _check_features(workspace, road, dataset)
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
        embed=road.embed,
        dataset=output.path,
        language=parts["language"].path,
        features=features_root(workspace, road),
        fingerprints=fingerprints,
        towers={tower: parts[tower].path for tower in fingerprints},
    )

    import ray

    from sonoray.cluster.session import ray_session, require_cpus
    from sonoray.tracking.callback import MlflowRunCallback
    from sonoray.tracking.connection import open_store
    from sonoray.tracking.origin import origin_tags
    from sonoray.tracking.runs import current_run_id, held_run

    title = run_title(road, dataset, name)
    tracking = open_store(workspace, tracking_uri, may_be_away=True)
    all_tags = {
        **origin_tags(),
        "sonoray.dataset": output.key[:16],
        "sonoray.run": name,
        **{f"sonoray.{tower}": fingerprint[:16] for tower, fingerprint in fingerprints.items()},
        **(tags or {}),
    }
    with ray_session(address), ExitStack() as stack:
        check_cpus(road, ray.cluster_resources().get("CPU", 0))  # type: ignore[no-untyped-call]
        stack.enter_context(sole_training(work))
        if stage.is_made(workspace.stages):  # another process may just have ended it
            return find_training(workspace, road, dataset)
        if road.train.resume:  # another process may have finished, and cleared, what goes on here
            check_resumable(workspace, road.train.resume, record)
        write_record(work, record)
        num_workers = road.train.num_workers
        room = loader_room(road.train, road.embed)
        require_cpus(
            num_workers * road.train.cpus_per_worker,
            "training",
            num_gpus=num_workers * (road.train.gpus_per_worker + room.num_gpus),
        )
        prebuild_communication()
        with held_run(
            tracking,
            workspace.runs,
            work.name,
            config=road.model_dump(mode="json"),
            params=recorded_settings(workspace, road, dataset, output),
            tags=all_tags,
            dataset=run_dataset(workspace, dataset, output),
            title=title,
            experiment=road.experiment,
        ):
            callback = MlflowRunCallback(
                store=tracking, storage_path=workspace.runs, name=work.name
            )
            start = time.monotonic()
            result = _fit(job, workspace.runs, work.name, callback, board)
            if result.error is not None or result.checkpoint is None:
                raise JobFailedError(f"training {name!r} failed: {result.error}")
            checkpoint = Path(result.checkpoint.path)
            summary = {
                "name": name,
                "run_id": current_run_id(workspace.runs, work.name),
                "metrics": {
                    key: float(value)
                    for key, value in (result.metrics or {}).items()
                    if isinstance(value, (int, float))
                },
                "elapsed_s": time.monotonic() - start,
                "evaluate": road.evaluate.model_dump(mode="json"),
                "dataset": dataset,
                "road": road.model_dump(mode="json"),
                "title": title,
            }
            made = run_stage(
                stage, workspace.stages, lambda folder: _keep(checkpoint, folder, summary)
            )
        clear_working_folder(work, keep_run=not road.train.resume)
    return Trained.read(made)


def _tidy(work: Path, road: RoadConfig) -> None:
    """Clear what a process that was killed after it had kept the training did not clear."""
    if has_checkpoint(work):
        with suppress(JobFailedError), sole_training(work):  # held: whoever ends it clears it
            clear_working_folder(work, keep_run=not road.train.resume)


def check_steps(num_studies: int, settings: TrainConfig) -> None:
    """Refuse a plan in which some worker would have a step without a study.

    Raises:
        ConfigError: the message says which settings to change.
    """
    Plan(
        num_studies=num_studies,
        seed=settings.seed,
        studies_per_step=settings.studies_per_step,
        epochs=range(1),
        rank=0,
        num_ranks=settings.num_workers,
    )


def _working_folder(
    workspace: Workspace, road: RoadConfig, name: str, record: Mapping[str, str]
) -> Path:
    """Where the training's checkpoints are while it goes; says what other code left unfinished."""
    if road.train.resume:
        check_resumable(workspace, road.train.resume, record)
        return workspace.runs / road.train.resume
    work = workspace.runs / name
    others = [other for other in find_unfinished(workspace, record) if other != name]
    if others and not has_checkpoint(work):
        logger.warning(
            "other code left training %s of this configuration unfinished; this one, %s, starts "
            "anew. To go on with it: Ctrl-C, and here and in what follows --set %s",
            others[-1],
            name,
            "=".join(("train.resume", others[-1])),
        )
    return work


def _keep(checkpoint: Path, folder: Path, summary: dict[str, Any]) -> dict[str, Any]:
    """Put a checkpoint into the stage's output, without copying where the disk is the same."""
    shutil.copytree(checkpoint, folder / CHECKPOINT, copy_function=_link_or_copy)
    return summary


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _check_features(workspace: Workspace, road: RoadConfig, dataset: str) -> None:
    """Refuse to start where features are missing that are read; holds nothing afterwards."""
    output = workspace.dataset(dataset)
    stores = open_stores(workspace, road, dataset)
    image_ids: list[str] | None = None
    for tower in road.embed.kept:
        if stores[tower].num_sealed(output.key) is not None:
            continue
        image_ids = image_ids or read_image_ids(output.path)
        lacking = len(stores[tower].missing(image_ids))
        if lacking:
            raise DataError(
                f"{lacking} of {len(image_ids)} images have no {tower} features; run: "
                f"sonoray embed --dataset {dataset} with the same --config and --set"
            )


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

    The kernel holds the lock, never a file that is merely there and outlives a killed process.

    Raises:
        JobFailedError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        held = FileLock(folder / LOCK, fallback_to_soft=False).acquire(timeout=0)
    except Timeout:
        raise JobFailedError(
            f"training {folder.name!r} is running in another process; wait for it to end, or stop "
            "it, then run the command again to go on with it or to use it"
        ) from None
    with held:
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
    room = loader_room(train, road.embed)
    needed = room.num_cpus
    if share < math.ceil(needed):
        asked, less = "train.data_cpus", "train.data_cpus (0 takes what is idle)"
        if room.streams:
            asked, less = f"embed.actor_cpus (embed.keep {road.embed.keep!r})", "embed.actor_cpus"
        raise ConfigError(
            f"{train.num_workers} train workers of {train.cpus_per_worker:g} CPUs leave each "
            f"{max(0, share):g} of the cluster's {num_cpus:g} to load its data, and "
            f"{asked} is {needed:g}; lower {less}, train.cpus_per_worker or "
            "train.num_workers, or add nodes"
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
