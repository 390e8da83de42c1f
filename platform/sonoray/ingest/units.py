"""Units: what there is of a source, study by study, before anything of it is decoded.

A source lists its units first: it reads names, tables and headers. A unit names the objects of one
study by reference, as paths or entries of an archive, so that it is small, can be pickled and can
be read by any process that sees the same files. Reading it decodes the objects in guarded processes
(`sonoray.images.sandbox`) and builds the raw study from what came out.

One process reads them in order, the objects of the next ones being decoded meanwhile
(`read_units`). A unit's study is the same wherever it is read.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from sonoray.images.sandbox import GuardedPool
from sonoray.ingest.sources.base import Source
from sonoray.study.raw import RawStudy


class Unit(Protocol):
    """One study by reference. Picklable, and small: no pixels."""

    @property
    def calls(self) -> Sequence[Callable[[], Any]]:
        """What decodes each of its objects: picklable calls for a guarded process."""
        ...

    def build(self, decoded: Sequence[Future[Any]], pool: GuardedPool) -> RawStudy:
        """Make the study.

        Args:
            decoded: what its calls gave, in their order; a future raises `RejectedImageError` where
                its object could not be decoded.
            pool: for what hangs on that, as the segmentations of decoded pictures.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """A study that was listed whole: its images are paths, or it has none."""

    study: RawStudy
    calls: Sequence[Callable[[], Any]] = ()

    def build(self, decoded: Sequence[Future[Any]], pool: GuardedPool) -> RawStudy:
        """Return it; there is nothing to decode."""
        del decoded, pool
        return self.study


@dataclass(frozen=True, kw_only=True, slots=True)
class Guard:
    """What the guarded processes of a source may take, and how far they work ahead."""

    memory_bytes: int
    """Of one process, on top of what it needs to start."""
    timeout_s: float
    """Longest time for one object."""
    ahead: int = 4
    """Objects a process that are decoded before whoever reads asks for them; their pixels wait."""

    def open(self, workers: int) -> GuardedPool:
        """So many processes; each starts with its first object."""
        return GuardedPool(
            workers=workers, memory_bytes=self.memory_bytes, timeout_s=self.timeout_s
        )


NO_GUARD = Guard(memory_bytes=1_000_000_000, timeout_s=60)
"""Of sources whose units have nothing to decode; no process starts."""


@runtime_checkable
class UnitSource(Source, Protocol):
    """A source that lists units, with objects that are decoded in guarded processes."""

    @property
    def guard(self) -> Guard:
        """What those processes may take."""
        ...

    def iter_units(self, pool: GuardedPool) -> Iterator[Unit]:
        """Yield the units in the order of `iter_studies`.

        Args:
            pool: for what must be read of untrusted objects to tell what there is, as headers.
        """
        ...


def guard_of(source: Source) -> Guard:
    """What the guarded processes of any source may take."""
    return source.guard if isinstance(source, UnitSource) else NO_GUARD


def iter_units(source: Source, pool: GuardedPool) -> Iterator[Unit]:
    """Yield the units of any source: of one that lists none, its studies as they come."""
    if isinstance(source, UnitSource):
        yield from source.iter_units(pool)
    else:
        for study in source.iter_studies():
            yield Listed(study=study)


def read_source(source: UnitSource) -> Iterator[RawStudy]:
    """Yield the studies of a source that lists units, with a guarded process for every core."""
    workers = os.cpu_count() or 1
    with source.guard.open(workers) as pool:
        yield from read_units(source.iter_units(pool), pool, ahead=source.guard.ahead * workers)


def read_units(units: Iterable[Unit], pool: GuardedPool, *, ahead: int) -> Iterator[RawStudy]:
    """Yield the studies of units in their order, the objects of the next ones decoded meanwhile.

    Args:
        units: what to read.
        pool: where their objects are decoded.
        ahead: how many studies or objects may wait; of one study, however many it has.
    """
    pending: deque[tuple[Unit, list[Future[Any]]]] = deque()
    waiting = 0
    for unit in units:
        decoded = [pool.submit(call) for call in unit.calls]
        pending.append((unit, decoded))
        waiting += len(decoded)
        while len(pending) > 1 and max(len(pending), waiting) > ahead:
            oldest, futures = pending.popleft()
            waiting -= len(futures)
            yield oldest.build(futures, pool)
    while pending:
        oldest, futures = pending.popleft()
        yield oldest.build(futures, pool)
