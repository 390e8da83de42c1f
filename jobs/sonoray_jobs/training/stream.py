"""The training data stream of one worker: Ray Data's actors load its steps ahead of it.

Rows are runs of consecutive steps of the worker's plans (`sonoray_jobs.training.step_loader`) and
come in their order: the worker gets exactly its planned samples, while loading runs ahead of it.
Each worker has a dataset of its own, because a split of one dataset deals out blocks as they
become ready.

Ray Data makes one object a row before the first step: 10,000 rows took 9.4 s and 39 MB (two busy
cores, Ray 2.60). A run of 10,000 steps of the tiny road has 625 rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sonoray_jobs.road.embed_config import EmbedConfig
from sonoray_jobs.road.train_config import TrainConfig
from sonoray_jobs.training.step_loader import LoadedStep, StepLoader, StepSource, unpack_steps

if TYPE_CHECKING:
    import ray.data


@dataclass(frozen=True, kw_only=True, slots=True)
class LoaderRoom:
    """What the loaders of one worker may take of the cluster."""

    num_cpus: float
    """Of each."""
    num_gpus: float = 0
    most: int | None = 1
    """Loaders at most, one at first; None: as many as there is room for."""
    streams: bool = False
    """Whether they run towers."""


def loader_room(train: TrainConfig, embed: EmbedConfig) -> LoaderRoom:
    """One loader that reads; or, where it runs towers, a pool of the embed stage's actors."""
    if embed.keep == "both":
        return LoaderRoom(num_cpus=train.data_cpus)
    return LoaderRoom(
        num_cpus=embed.actor_cpus,
        num_gpus=embed.actor_gpus,
        most=embed.actors or None,
        streams=True,
    )


def iter_loaded_steps(source: StepSource, room: LoaderRoom) -> Iterator[LoadedStep]:
    """Yield the data of a worker's steps in order, loaded ahead by Ray Data."""
    (stream,) = loaded_rows(source, room).streaming_split(1, equal=False)
    for row in stream.iter_rows():
        yield from unpack_steps(source, row)


def loaded_rows(source: StepSource, room: LoaderRoom) -> "ray.data.Dataset":
    """The dataset of a worker's loaded rows, in order."""
    import ray

    from sonoray.cluster.data_pause import pause_idle_loops

    pause_idle_loops()
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    rows = source.rows()
    return ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        StepLoader,  # type: ignore[arg-type]
        fn_constructor_args=(source,),
        num_cpus=room.num_cpus,
        num_gpus=room.num_gpus,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=room.most),
    )
