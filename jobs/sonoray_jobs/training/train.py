"""Train: Ray Train workers with DeepSpeed, one MLflow run, resumable by rerunning the command.

A finished training is a stage of the workspace (`outputs.training_stage`) with its checkpoint.
While it goes, its workers keep checkpoints in `runs/<name>`; the name is the hash of everything
that decides the outcome, so the same command finds them: after a crash it goes on, after the end it
is a no-op. What other code left unfinished is named (`unfinished`).
"""

import logging
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from sonoray.digests.code import module_digests
from sonoray.errors import CheckpointError, JobFailedError
from sonoray.stages import run_stage
from sonoray.study.prompt import conversation
from sonoray.tracking.outbox import OUTBOX, Outbox
from sonoray.workspace import Workspace
from sonoray_jobs.data.context_length import check_lengths, read_tokenizer
from sonoray_jobs.outputs.find import (
    CHECKPOINT,
    TRAINING_CODE,
    Trained,
    find_parts,
    find_training,
    training_name,
    training_stage,
)
from sonoray_jobs.outputs.recorded import recorded_settings, run_dataset
from sonoray_jobs.outputs.run_title import run_title
from sonoray_jobs.outputs.stores import features_root, tower_fingerprints
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.road.device_check import require_precisions
from sonoray_jobs.road.train_config import TrainConfig
from sonoray_jobs.training import train_checks
from sonoray_jobs.training.class_bank import prepare_bank
from sonoray_jobs.training.deepspeed_ops import prebuild_communication
from sonoray_jobs.training.protocol import training_protocol
from sonoray_jobs.training.saving.checkpoint_store import CheckpointStore
from sonoray_jobs.training.saving.position import Position
from sonoray_jobs.training.stream import loader_room
from sonoray_jobs.training.studies import iter_training_studies, training_index
from sonoray_jobs.training.unfinished import (
    LOCK,
    Record,
    changed_code,
    changed_modules,
    check_resumable,
    clear_working_folder,
    find_unfinished,
    has_checkpoint,
    kept_record,
    record_of,
    told_where_it_stopped,
)
from sonoray_jobs.training.worker import TrainJob

if TYPE_CHECKING:
    from ray.train import Result, UserCallback

    from sonoray.cluster.step_board import StepBoard

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
    watchers: Sequence["UserCallback"] = (),
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
        watchers: Ray Train's callbacks, told each report besides MLflow's own.

    Raises:
        DataError: an earlier step is missing, a text does not fit the context, or `train.only` and
            `train.site_cue` do not fit.
        ConfigError: the workers would leave no CPU for Ray Data, a node lacks a precision, or
            `train.resume` names none that may be gone on with.
        ClusterError: the cluster cannot be reached or is too small.
        TrackingError: MLflow refuses the run; one that is away stops nothing.
        JobFailedError: the training itself failed, or another process is at it.
    """
    output = workspace.dataset(dataset)
    parts = find_parts(workspace, road, dataset)
    stage = training_stage(road, output, parts)
    name = training_name(stage)
    code = module_digests(*TRAINING_CODE)
    if stage.is_made(workspace.stages):
        _tidy(workspace.runs / (road.train.resume or name), road)
        trained = find_training(workspace, road, dataset)
        _deliver_rest(workspace, road.train.resume or name, tracking_uri)
        _tell_changed(name, "was trained", changed_modules(trained.code, code))
        return trained
    train_checks.check_steps(len(training_index(output.path, road.train)), road.train)
    record = record_of(stage, {"dataset": output, **parts})
    work = _working_folder(workspace, road, name, record)
    train_checks.check_features(workspace, road, dataset)
    train_checks.warn_unjudged(output.path, dataset, road.train)
    protocol = training_protocol(output.path, road.train)
    studies = iter_training_studies(output.path, road.train)
    told = partial(conversation, protocol=protocol)
    check_lengths(read_tokenizer(parts["language"].path), studies, road.model, told=told)
    train_checks.check_model(road, parts["language"].path, work)
    bank = prepare_bank(output.path, road)
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
        bank=bank,
        checkpoints=str(work),
        protocol=protocol,
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
        "sonoray.language": parts["language"].key[:16],
        **{f"sonoray.{tower}": fingerprint[:16] for tower, fingerprint in fingerprints.items()},
        **(tags or {}),
    }
    with ray_session(address), ExitStack() as stack:
        train_checks.check_cpus(road, ray.cluster_resources().get("CPU", 0))  # type: ignore[no-untyped-call]
        stack.enter_context(sole_training(work))
        if stage.is_made(workspace.stages):  # another process may just have ended it
            return find_training(workspace, road, dataset)
        if road.train.resume:  # another process may have finished, and cleared, what goes on here
            check_resumable(workspace, road.train.resume, record, road.train.allow_changed)
        if has_checkpoint(work):
            _tell_changed(work.name, "was begun", changed_code(work, code))
        store = CheckpointStore(job.checkpoints)
        stack.enter_context(kept_record(work, record, code, store.names))
        num_workers = road.train.min_workers or road.train.num_workers
        room = loader_room(road.train, road.embed)
        require_cpus(
            num_workers * road.train.cpus_per_worker,
            "training",
            num_gpus=num_workers * (road.train.gpus_per_worker + room.num_gpus),
        )
        require_precisions(
            {"train.precision": road.train.precision}, uses_gpus=road.train.gpus_per_worker > 0
        )
        if room.streams:
            require_precisions(
                {"embed.precision": road.embed.precision}, uses_gpus=room.num_gpus > 0
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
            with told_where_it_stopped(store):
                result = _fit(job, workspace.runs, work.name, [callback, *watchers], board)
            why = result.error or result.return_value  # type: ignore[attr-defined]
            if why:
                raise JobFailedError(f"training {name!r} failed: {why}")
            checkpoint, position = _outcome(store, road.train)
            summary = {
                "name": name,
                "run_id": current_run_id(workspace.runs, work.name),
                "metrics": position.metrics,
                "elapsed_s": time.monotonic() - start,
                "evaluate": road.evaluate.model_dump(mode="json"),
                "dataset": dataset,
                "road": road.model_dump(mode="json"),
                "title": title,
                "code": code,
            }
            made = run_stage(
                stage, workspace.stages, lambda folder: _keep(checkpoint, folder, summary)
            )
        clear_working_folder(work, keep_run=not road.train.resume)
    return Trained.read(made)


def _tell_changed(name: str, was: str, modules: Sequence[str]) -> None:
    """Say that code changed under a training whose name it does not change."""
    if modules:
        told = ", ".join(modules[:5]) + (f" and {len(modules) - 5} more" if modules[5:] else "")
        logger.warning(
            "training %s %s by other code (%s) of the same version of what is learned; where your "
            "change does change that, train anew with --set train.variant=NAME",
            name,
            was,
            told,
        )


def _tidy(work: Path, road: RoadConfig) -> None:
    """Clear what a process that was killed after it had kept the training did not clear."""
    if has_checkpoint(work):
        with suppress(JobFailedError), sole_training(work):  # held: whoever ends it clears it
            clear_working_folder(work, keep_run=not road.train.resume)


def _deliver_rest(workspace: Workspace, name: str, tracking_uri: str | None) -> None:
    """Send what a finished training, or a process that was killed right after it, left unsent."""
    if Outbox(workspace.runs / name / OUTBOX).num_waiting():
        from sonoray.tracking.connection import open_store
        from sonoray.tracking.delivery import deliver_waiting

        deliver_waiting(open_store(workspace, tracking_uri, may_be_away=True), workspace.runs)


def _working_folder(workspace: Workspace, road: RoadConfig, name: str, record: Record) -> Path:
    """Where the training's checkpoints are while it goes; says what others left unfinished."""
    if road.train.resume:
        check_resumable(workspace, road.train.resume, record, road.train.allow_changed)
        return workspace.runs / road.train.resume
    work = workspace.runs / name
    others = [other for other in find_unfinished(workspace, record) if other != name]
    if others and not has_checkpoint(work):
        logger.warning(
            "another version left training %s of this configuration unfinished; this one, %s, "
            "starts anew. To go on with it: Ctrl-C, and here and in what follows --set %s",
            others[-1],
            name,
            "=".join(("train.resume", others[-1])),
        )
    return work


def _outcome(store: CheckpointStore, settings: TrainConfig) -> tuple[Path, Position]:
    """The checkpoint that the training ends with.

    Raises:
        CheckpointError: somebody damaged what the workers wrote.
    """
    last, best = len(settings.stages) - 1, settings.keep == "best"
    name = (best and store.best_whole(last, logger.warning)) or store.newest(logger.warning)
    if name is None:
        raise CheckpointError(f"no checkpoint is left in {store.root}; run the command again")
    return Path(store.root) / name, store.read_position(name)


def _keep(checkpoint: Path, folder: Path, summary: dict[str, Any]) -> dict[str, Any]:
    """Put a checkpoint into the stage's output, without copying where the disk is the same."""
    shutil.copytree(checkpoint, folder / CHECKPOINT, copy_function=_link_or_copy)
    return summary


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _fit(
    job: TrainJob,
    storage: Path,
    name: str,
    callbacks: Sequence["UserCallback"],
    board: "StepBoard | None",
) -> "Result":
    """Run the workers to the end of the last stage, from their latest checkpoint on."""
    import ray.train
    from ray.train.torch import TorchTrainer

    from sonoray.cluster.step_board import StepBoard
    from sonoray_jobs.training.saving.process_group import NoticingTorchConfig

    settings = job.train
    num_workers: int | tuple[int, int] = settings.num_workers
    if settings.min_workers:
        num_workers = (settings.min_workers, settings.num_workers)
    shown = board or StepBoard.start()
    trainer = TorchTrainer(
        _train_loop,  # type: ignore[arg-type]
        train_loop_config={"job": job.model_dump(mode="json"), "board": shown},
        torch_config=NoticingTorchConfig(timeout_s=math.ceil(settings.collective_timeout_s)),
        scaling_config=ray.train.ScalingConfig(
            num_workers=num_workers,  # type: ignore[arg-type]
            use_gpu=settings.gpus_per_worker > 0,
            resources_per_worker=_worker_resources(job.train),
        ),
        run_config=ray.train.RunConfig(
            storage_path=str(storage),
            name=name,
            callbacks=list(callbacks),  # type: ignore[arg-type]
            failure_config=ray.train.FailureConfig(
                max_failures=settings.max_failures,
                controller_failure_limit=_MAX_FAILED_STARTS,  # type: ignore[call-arg]
            ),
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


def _train_loop(config: dict[str, Any]) -> str:
    """Import the real loop on the worker: the driver never needs torch or DeepSpeed."""
    from sonoray_jobs.training.worker import train_loop_per_worker

    return train_loop_per_worker(config)


def _worker_resources(train: TrainConfig) -> dict[str, float]:
    resources = {"CPU": train.cpus_per_worker}
    if train.gpus_per_worker:
        resources["GPU"] = train.gpus_per_worker
    return resources
