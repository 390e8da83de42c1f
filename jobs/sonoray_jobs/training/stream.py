"""The training data stream of one worker: Ray Data's actors load its steps ahead of it.

Rows are runs of consecutive steps of the worker's plans (`sonoray_jobs.training.step_loader`) and
come in their order: the worker gets exactly its planned samples, while loading runs ahead of it.
Each worker has a dataset of its own, because a split of one dataset deals out blocks as they
become ready.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sonoray_jobs.training.step_loader import LoadedStep, StepLoader, StepSource, unpack_steps

if TYPE_CHECKING:
    import ray.data


def iter_loaded_steps(source: StepSource, *, num_cpus: float) -> Iterator[LoadedStep]:
    """Yield the data of a worker's steps in order, loaded ahead by Ray Data.

    Args:
        source: the plans, and what they are loaded from.
        num_cpus: logical CPUs of the loading actor.
    """
    (stream,) = loaded_rows(source, num_cpus=num_cpus).streaming_split(1, equal=False)
    for row in stream.iter_rows():
        yield from unpack_steps(source, row)


def loaded_rows(source: StepSource, *, num_cpus: float) -> "ray.data.Dataset":
    """The dataset of a worker's loaded rows, in order."""
    import ray

    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    rows = source.rows()
    return ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        StepLoader,  # type: ignore[arg-type]
        fn_constructor_args=(source,),
        num_cpus=num_cpus,
        compute=ray.data.ActorPoolStrategy(size=1),
    )
