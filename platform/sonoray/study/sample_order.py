"""Which study is seen at which training step: a pure function of seed, epoch and counts.

The same goes for the turns that are asked of it (`turns_of_epoch`).

A `Plan` stores nothing: it computes each step when it is asked for, and keeps the permutations of
two epochs, eight bytes a study each. The order depends on neither the number of workers nor on
where a run was interrupted: a resumed run, on fewer or more workers, goes on at the step after its
last checkpoint and sees there what it would have seen. Each epoch is a new permutation cut into as
few steps as hold it, of equal size give or take one study and none above the batch: every study
once, none dropped, none repeated. (Ray Data's `streaming_split(equal=True)` drops the rest and
repeats the order in every epoch.)
"""

import functools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import numpy.typing as npt

from sonoray.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One optimisation step of one rank."""

    epoch: int
    index: int
    """Step within the epoch."""
    studies: tuple[int, ...]
    """This rank's share, by place in the order of study ids (`sonoray.study.study_index`)."""
    seed: int
    """The plan's."""
    split: str = "train"
    """Of the studies."""


def num_steps(num_studies: int, studies_per_step: int) -> int:
    """Steps in an epoch: the fewest of which none holds more than `studies_per_step`."""
    return -(-num_studies // studies_per_step)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan(Sequence[Step]):
    """One rank's steps, in order.

    Raises:
        ConfigError: a step would leave some rank without a study.
    """

    num_studies: int
    """Studies of the split."""
    seed: int
    """Source of the permutations, with the epoch's number."""
    studies_per_step: int
    """Global batch size."""
    epochs: range
    """The epochs to go through."""
    rank: int
    num_ranks: int
    begin: int = 0
    """Steps of these epochs that are left out in front: those that were done before."""
    end: int | None = None
    """Number of the step before which it stops; None goes to the end."""
    split: str = "train"

    def __post_init__(self) -> None:
        smallest = self.num_studies // max(1, self.steps_per_epoch)
        if smallest < self.num_ranks:
            raise ConfigError(
                f"{self.num_studies} studies in steps of at most {self.studies_per_step} leave "
                f"{smallest} to a step, which cannot feed {self.num_ranks} workers; lower "
                "train.num_workers or raise train.studies_per_step"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Steps of each epoch."""
        return num_steps(self.num_studies, self.studies_per_step)

    def __len__(self) -> int:
        last = len(self.epochs) * self.steps_per_epoch
        return max(0, (last if self.end is None else min(self.end, last)) - self.begin)

    @overload
    def __getitem__(self, number: int) -> Step: ...
    @overload
    def __getitem__(self, number: slice) -> list[Step]: ...
    def __getitem__(self, number: int | slice) -> Step | list[Step]:
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        if not 0 <= number < len(self):
            raise IndexError(number)
        turn, index = divmod(self.begin + number, self.steps_per_epoch)
        epoch = self.epochs[turn]
        order = _order(self.seed, epoch, self.num_studies)
        chunk = _part(order, index, self.steps_per_epoch)
        share = _part(chunk, self.rank, self.num_ranks)
        return Step(
            epoch=epoch,
            index=index,
            studies=tuple(share.tolist()),
            seed=self.seed,
            split=self.split,
        )


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, num_studies: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(num_studies)


def _part(values: npt.NDArray[np.int64], number: int, num_parts: int) -> npt.NDArray[np.int64]:
    """What `np.array_split(values, num_parts)[number]` is."""
    size, longer = divmod(len(values), num_parts)
    start = number * size + min(number, longer)
    return values[start : start + size + (number < longer)]


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
