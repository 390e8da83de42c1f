"""What a training refuses, or says, before any worker starts."""

import json
import logging
import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sonoray.cluster.scratch import scratch_folder
from sonoray.errors import CheckpointError, ConfigError, DataError, SonoError
from sonoray.study.sample_order import Plan
from sonoray.workspace import Workspace
from sonoray_jobs.outputs.find import open_stores
from sonoray_jobs.outputs.stores import read_image_ids
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.road.train_config import TrainConfig
from sonoray_jobs.towers.embed_plan import view_keys
from sonoray_jobs.towers.views import views_of
from sonoray_jobs.training.saving.checkpoint_store import CheckpointStore
from sonoray_jobs.training.stream import loader_room
from sonoray_jobs.training.studies import validation_index

if TYPE_CHECKING:
    from llava_ultra.model import LlavaUltra

logger = logging.getLogger(__name__)

_MOST_ZERO = 2
"""Stage of ZeRO up to which every worker has all weights."""


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


def check_features(workspace: Workspace, road: RoadConfig, dataset: str) -> None:
    """Refuse to start where features are missing that are read; holds nothing afterwards."""
    output = workspace.dataset(dataset)
    stores = open_stores(workspace, road, dataset)
    views = views_of(road.embed) if road.embed.views else None
    wanted = {output.key: ("images", partial(read_image_ids, output.path))}
    if views:
        wanted[views.seal(output.key)] = ("views", partial(view_keys, output.path, views))
    for seal, (what, read_keys) in wanted.items():
        unsealed = [
            each
            for each, store in stores.items()
            if road.embed.keeps(each) and store.num_sealed(seal) is None
        ]
        keys = read_keys() if unsealed else []
        for tower in unsealed:
            if lacking := len(stores[tower].missing(keys)):
                raise DataError(
                    f"{lacking} of {len(keys)} {what} have no {tower} features; run: "
                    f"sonoray embed --dataset {dataset} with the same --config and --set"
                )


def warn_unjudged(folder: Path, dataset: str, settings: TrainConfig) -> None:
    """Say that a training will not be judged on the way though it should be, for want of studies.

    Args:
        folder: of the dataset.
        dataset: its name.
        settings: of the training.
    """
    if settings.validate_every != "never" and validation_index(folder, settings) is None:
        logger.warning(
            "dataset %s has fewer than %d validation studies (train.num_workers): the training is "
            "not judged on the way, no stage ends early, and the last checkpoint is kept",
            dataset,
            settings.num_workers,
        )


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
    if train.min_workers and not needed:  # as many as there is room for
        return
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


def check_model(road: RoadConfig, language: Path, work: Path) -> None:
    """Refuse a model that no worker could build or learn with, before one starts.

    Args:
        road: the configuration.
        language: folder of the language model.
        work: the training's working folder, whose checkpoint is gone on from.

    Raises:
        ConfigError: adapters do not fit the decoder; an objective needs whole weights, which are
            spread over workers, or a layer that the decoder lacks; a stage would have nothing to
            learn from; or `train.allow_changed` lets in what no longer fits the checkpoint.
    """
    from llava_ultra.cost.parts import build_model

    _check_objectives(road, language)
    try:
        model = build_model(road.model, language)
    except ValueError as error:
        where = "model.lora: " if str(error).startswith("LoRA ") else ""
        raise ConfigError(f"{where}{error}") from None
    if road.train.resume and road.train.allow_changed:
        _check_fits(model, road.train, CheckpointStore(str(work)))


def _check_fits(model: "LlavaUltra", settings: TrainConfig, begun: CheckpointStore) -> None:
    from sonoray_jobs.training.checkpoint import check_moments, load_weights
    from sonoray_jobs.training.worker import set_trainable

    try:
        newest = begun.names()[-1]
        position = begun.verify(newest)
    except (IndexError, OSError, SonoError):
        return  # it was just finished, or the workers refuse it and take the one before
    try:
        with scratch_folder() as scratch:
            saved = begun.fetch(newest, scratch)
            load_weights(model, saved)
            for stage in settings.stages[position.stage : position.stage + 1]:
                if position.steps and position.epochs < stage.epochs and not position.stopped:
                    set_trainable(model, stage)  # it goes on inside this stage
                    check_moments(model, saved)
    except OSError:  # another process cleared it
        return
    except CheckpointError as error:
        raise ConfigError(
            f"train.resume {settings.resume!r} cannot go on with what --allow-changed "
            f"{' --allow-changed '.join(settings.allow_changed)} lets in: {error}"
        ) from None


def _check_objectives(road: RoadConfig, language: Path) -> None:
    count = json.loads((language / "config.json").read_text("utf-8")).get("num_hidden_layers")
    active = road.model.active_objectives
    for each in active:
        if each.needs_whole_weights and road.train.zero_stage > _MOST_ZERO:
            raise ConfigError(
                f"objective {each.type!r} needs whole weights on every worker, which "
                f"train.zero_stage {road.train.zero_stage} spreads; set it to {_MOST_ZERO}"
            )
        layer = getattr(each, "layer", None)
        if count and layer is not None and not (1 <= layer <= count or -count <= layer <= -1):
            raise ConfigError(
                f"objective {each.type!r}: layer {layer} is none of this decoder's {count} layers; "
                f"give 1 to {count}, or -1 to -{count} from the last one"
            )
    for stage in road.train.stages:
        if not stage.lora and all("adapters" in each.needs for each in active):
            raise ConfigError(
                f"train.stages {stage.name!r} has lora = false, and what is trained for "
                f"({', '.join(each.type for each in active)}) rests while the adapters do; list "
                "'answer' in model.objectives, or set lora = true"
            )
