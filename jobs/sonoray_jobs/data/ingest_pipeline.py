"""Ingest on a cluster: the units of a source become parts in Ray Data actors.

```
driver:  list units -> batches of references on disk -> parts in order -> tables of the dataset
actors:  batch -> decode (guarded process) -> check, de-identify, hash, PNG -> part
```

A batch holds units with some 16 objects together (`sonoray.ingest.units`), and a row of the
pipeline is its number, so that the driver holds neither pixels nor the list of a large archive.
What an actor prepared becomes a part (`sonoray.ingest.prepared_parts`). When all are there, the
driver reads them in the order of the source and does with them what it does without Ray
(`sonoray.ingest.intake`): duplicates, near duplicates, splits and tables hang on that order alone,
so the dataset is the same, to the byte, for any number of workers.

What dies costs little. Ray starts a lost actor again, and its batch. A lost driver leaves finished
parts, and the next ingest of the same source with the same configuration goes on with them: each
worker repeats a batch at most, and the headers are read again. An object that needs too much memory
or time ends its guarded process, as everywhere. Where the actor itself was lost with a batch, the
next one prepares each of its studies in a guarded process of its own: a study that kills it is
quarantined with the reason, the others go on.

Workers must see the source's files and the workspace under the paths that the driver has.
"""

import os
import pickle
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from sonoray.cluster.progress import progress
from sonoray.cluster.session import memory_limit_bytes, ray_session, require_cpus
from sonoray.errors import ClusterError, DataError
from sonoray.images.decode import RejectedImageError
from sonoray.ingest.prepare import Preparation, PreparedStudy
from sonoray.ingest.prepared_parts import part_name, read_part, remove_parts, write_part
from sonoray.ingest.run import Spread
from sonoray.ingest.sources.base import Source
from sonoray.ingest.units import Guard, Listed, Unit, guard_of, iter_units, read_units
from sonoray.stages import Stage
from sonoray.study.raw import RawImage, RawStudy

_BATCH_OBJECTS = 16
"""Objects of a batch, some seconds of work; a study with more is a batch of its own."""
_CAREFUL_MEMORY_BYTES = 8_000_000_000
_CAREFUL_TIMEOUT_S = 600.0

_WORK = "work.pickle"

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What actors are told, in a file beside the batches: Ray sees no key and no identifier."""

    preparation: Preparation
    guard: Guard
    cwd: Path
    """The driver's folder, from which relative paths count."""
    places: Sequence[Path]
    """What a worker must see: the source's files and folders."""


def spread_on_ray(
    *, folder: Path, workers: int, places: Sequence[Path], address: str | None
) -> Spread:
    """Return what prepares the studies of a source on Ray.

    Args:
        folder: of the dataset's parts, opened (`sonoray.ingest.prepared_parts.open_parts`).
        workers: actors of one CPU; 0: as many as the cluster has CPUs.
        places: the source's files and folders, which every worker must see.
        address: the cluster, as for every job.
    """
    return partial(_spread, folder=folder, workers=workers, places=places, address=address)


def _spread(
    source: Source,
    preparation: Preparation,
    stage: Stage,
    *,
    folder: Path,
    workers: int,
    places: Sequence[Path],
    address: str | None,
) -> Iterator[PreparedStudy]:
    """Prepare all studies of a source, and yield them in its order.

    Raises:
        ClusterError: Ray cannot be reached, is too small or does not see the files.
    """
    parts = folder / stage.key[:16]
    remove_parts(folder, keep=parts.name)
    parts.mkdir(mode=0o700, exist_ok=True)
    work = Work(
        preparation=preparation,
        guard=guard_of(source),
        cwd=Path.cwd(),
        places=places,
    )
    (parts / _WORK).write_bytes(pickle.dumps(work))
    numbers = range(list_batches(source, work, parts))
    missing = [number for number in numbers if not (parts / part_name(number)).exists()]
    if missing:
        with ray_session(address):
            done = progress(
                run_batches(missing, parts, workers), f"prepare {source.name}", len(missing)
            )
            num_done = sum(1 for _ in done)
        if num_done != len(missing):
            raise DataError(
                f"{num_done} of {len(missing)} batches came through; run the ingest again"
            )
    for number in numbers:
        yield from read_part(parts / part_name(number))


def list_batches(source: Source, work: Work, folder: Path) -> int:
    """Write the batches of a source as references, and return their number.

    Studies that hold pixels themselves, of sources that cannot name files, are prepared here.
    """
    number = 0
    with work.guard.open(os.cpu_count() or 1) as pool:
        for number, units in enumerate(_batches(iter_units(source, pool)), start=1):
            path = folder / part_name(number - 1)
            if path.exists():
                continue
            if any(_holds_pixels(unit) for unit in units):
                studies = read_units(units, pool, ahead=work.guard.ahead)
                write_part(path, map(work.preparation.prepare, studies))
                continue
            partial_path = path.with_suffix(".listing")
            partial_path.write_bytes(pickle.dumps(units))
            partial_path.replace(path.with_suffix(".units"))
    return number


def run_batches(numbers: Sequence[int], folder: Path, workers: int) -> Iterator[Row]:
    """Prepare batches in the running Ray session; yield what became of each, in any order."""
    import ray

    from sonoray.cluster.data_pause import pause_idle_loops

    pause_idle_loops()
    resources: Mapping[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    most = min(workers or max(1, int(resources.get("CPU", 0))), len(numbers))
    require_cpus(most, "ingest")
    rows = ray.data.from_items([{"batch": number} for number in numbers]).map(
        BatchActor,  # type: ignore[arg-type]
        fn_constructor_args=(folder,),
        compute=ray.data.ActorPoolStrategy(size=most, max_tasks_in_flight_per_actor=2),
        num_cpus=1,
    )
    yield from rows.iter_rows()


class BatchActor:
    """Turns batches into parts, with a guarded process of its own for the decoders."""

    def __init__(self, folder: Path) -> None:
        """Check that this worker sees what the driver does.

        Args:
            folder: where the batches lie and parts go.

        Raises:
            ClusterError: it does not.
        """
        _require(folder / _WORK)
        work: Work = pickle.loads((folder / _WORK).read_bytes())  # noqa: S301 - written by the driver, into a folder of mode 0700
        if work.cwd.is_dir():
            os.chdir(work.cwd)
        for place in work.places:
            _require(place)
        self._folder = folder
        self._work = work
        self._pool = work.guard.open(1)

    def __call__(self, row: Row) -> Row:
        """Write the part of a batch where it is not there yet."""
        start = time.perf_counter()
        path = self._folder / part_name(row["batch"])
        if not path.exists():
            units: list[Unit] = pickle.loads(path.with_suffix(".units").read_bytes())  # noqa: S301 - written by the driver, into a folder of mode 0700
            tried = path.with_suffix(".tried")
            is_careful = tried.exists()
            tried.touch(mode=0o600)
            studies = read_units(units, self._pool, ahead=self._work.guard.ahead)
            prepare = self._prepare_carefully if is_careful else self._prepare
            write_part(path, prepare(studies))
            tried.unlink(missing_ok=True)
        return {"batch": row["batch"], "busy_s": time.perf_counter() - start}

    def _prepare(self, studies: Iterable[RawStudy]) -> Iterator[PreparedStudy]:
        return map(self._work.preparation.prepare, studies)

    def _prepare_carefully(self, studies: Iterable[RawStudy]) -> Iterator[PreparedStudy]:
        """Prepare each study in a guarded process, since an actor was lost with one of them."""
        preparation = self._work.preparation
        guard = Guard(
            memory_bytes=min(_CAREFUL_MEMORY_BYTES, memory_limit_bytes() // 2),
            timeout_s=_CAREFUL_TIMEOUT_S,
        )
        with guard.open(1) as pool:
            for study in studies:
                try:
                    yield pool.submit(preparation.prepare, study).result()
                except RejectedImageError as error:
                    yield preparation.prepare(_rejected(study, str(error)))


def _require(path: Path) -> None:
    """Raise `ClusterError` where this worker does not see what the driver does."""
    if not path.exists():
        raise ClusterError(
            f"a worker on {os.uname().nodename} does not see {str(path)!r}; ingest with workers "
            "needs the source and the workspace on a disk that all nodes share, or set "
            "ingest.workers=1"
        )


def _rejected(study: RawStudy, problem: str) -> RawStudy:
    """A study that killed who prepared it, without what may have done that."""
    images = tuple(RawImage(ref=image.ref, data=b"", problem=problem) for image in study.images)
    return replace(study, images=images, turns=(), labels={}, problem=problem)


def _batches(units: Iterable[Unit]) -> Iterator[list[Unit]]:
    batch: list[Unit] = []
    num_objects = 0
    for unit in units:
        batch.append(unit)
        num_objects += max(1, len(unit.calls), _num_listed(unit))
        if num_objects >= _BATCH_OBJECTS:
            yield batch
            batch, num_objects = [], 0
    if batch:
        yield batch


def _num_listed(unit: Unit) -> int:
    return len(unit.study.images) if isinstance(unit, Listed) else 0


def _holds_pixels(unit: Unit) -> bool:
    return isinstance(unit, Listed) and any(
        not image.problem and not isinstance(part, Path | None)
        for image in unit.study.images
        for part in (image.data, image.mask)
    )
