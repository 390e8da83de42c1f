"""Pages through a pool of actors on Ray Data; every page comes back once."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sonoray.errors import DataError

if TYPE_CHECKING:
    from sonoray_jobs.road.config import EvaluateConfig


def pool_rows(
    rows: Sequence[Mapping[str, Any]],
    *,
    actor: type,
    given: Mapping[str, Any],
    settings: "EvaluateConfig",
    uses_gpus: bool,
    address: str | None,
    what: str,
) -> list[dict[str, Any]]:
    """Send rows, one a page, through actors, one page at a time.

    Args:
        rows: what the actors are given.
        actor: class of the actors.
        given: what their constructor gets.
        settings: the room of the actors.
        uses_gpus: whether they get the GPUs of the settings.
        address: Ray cluster.
        what: is done, for the progress.

    Returns:
        A row for each, in the order of their column `page`.

    Raises:
        DataError: fewer came back.
        ClusterError: Ray cannot be reached, is too small or too busy.
    """
    import ray

    from sonoray.cluster.data_pause import pause_idle_loops
    from sonoray.cluster.progress import progress
    from sonoray.cluster.session import ray_session, require_cpus

    num_actors = min(settings.actors, len(rows))
    gpus = settings.actor_gpus if uses_gpus else 0
    with ray_session(address):
        pause_idle_loops()
        require_cpus(num_actors * settings.actor_cpus, what, num_gpus=num_actors * gpus)
        found = ray.data.from_items(
            [dict(row) for row in rows], override_num_blocks=len(rows)
        ).map_batches(
            actor,
            fn_constructor_kwargs=dict(given),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=num_actors),
            num_cpus=settings.actor_cpus,
            num_gpus=gpus,
        )
        back = {row["page"]: row for row in progress(found.iter_rows(), what, total=len(rows))}
    if len(back) != len(rows):
        raise DataError(f"{len(back)} of {len(rows)} pages came back; run the command again")
    return [back[row["page"]] for row in rows]
