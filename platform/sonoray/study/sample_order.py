"""Which study is seen at which training step: a pure function of seed, epoch and batch size.

The same goes for the turns that are asked of it (`turns_of_epoch`).

The order depends on neither the number of workers nor on where a run was interrupted: a resumed
run, on fewer or more workers, goes on at the start of the epoch after its last checkpoint and sees
there what it would have seen. Each epoch is a new permutation cut into as few steps as hold it, of
equal size give or take one study and none above the batch: every study once, none dropped, none
repeated. (Ray Data's `streaming_split(equal=True)` drops the
rest and repeats the order in every epoch.)
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sonoray.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One optimisation step of one rank."""

    epoch: int
    index: int
    """Step within the epoch."""
    study_ids: tuple[str, ...]
    """This rank's share."""
    seed: int
    """The plan's."""


def num_steps(num_studies: int, studies_per_step: int) -> int:
    """Steps in an epoch: the fewest of which none holds more than `studies_per_step`."""
    return -(-num_studies // studies_per_step)


def iter_steps(
    study_ids: Sequence[str],
    *,
    seed: int,
    studies_per_step: int,
    epochs: range,
    rank: int,
    num_ranks: int,
) -> Iterator[Step]:
    """Yield one rank's steps in order.

    Args:
        study_ids: all studies of the split; their order does not matter.
        seed: source of the permutations, with the epoch's number.
        studies_per_step: global batch size.
        epochs: the epochs to go through.
        rank: this worker.
        num_ranks: number of workers.

    Raises:
        ConfigError: a step would leave some rank without a study.
    """
    steps_per_epoch = num_steps(len(study_ids), studies_per_step)
    smallest = len(study_ids) // max(1, steps_per_epoch)
    if smallest < num_ranks:
        raise ConfigError(
            f"{len(study_ids)} studies in steps of at most {studies_per_step} leave {smallest} to "
            f"a step, which cannot feed {num_ranks} workers; lower train.num_workers or raise "
            "train.studies_per_step"
        )
    ordered = sorted(study_ids)
    for epoch in epochs:
        order = np.random.default_rng([seed, epoch]).permutation(len(ordered))
        chunks = np.array_split(order, steps_per_epoch)
        for index, chunk in enumerate(chunks):
            share = np.array_split(chunk, num_ranks)[rank]
            yield Step(
                epoch=epoch,
                index=index,
                study_ids=tuple(ordered[position] for position in share),
                seed=seed,
            )


def turns_of_epoch(
    study_id: str, num_turns: int, *, turns_per_epoch: int, seed: int, epoch: int
) -> list[int]:
    """Positions of the turns of a study that an epoch asks, ascending.

    An epoch takes the next `turns_per_epoch` in a cycle through the study's turns, whose order is
    drawn once: over the epochs each turn is asked equally often, give or take one.

    Args:
        study_id: the study; each has an order of its own.
        num_turns: how many turns it has.
        turns_per_epoch: how many to ask; 0 asks all.
        seed: the plan's.
        epoch: number of the epoch.
    """
    if not 0 < turns_per_epoch < num_turns:
        return list(range(num_turns))
    order = np.random.default_rng([seed, zlib.crc32(study_id.encode())]).permutation(num_turns)
    start = epoch * turns_per_epoch
    return sorted(int(order[(start + i) % num_turns]) for i in range(turns_per_epoch))
