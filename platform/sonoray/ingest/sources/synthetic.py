"""The phantom as a data source: nothing is read, everything follows from the configuration.

Drawing an image takes 12 ms of CPU, so studies are drawn by one process per core, in order and at
most a few ahead of whoever reads them. A patient hangs on its number alone: the studies are the
same however many processes draw them.
"""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

from sonoray.images.sandbox import GuardedPool
from sonoray.ingest.units import NO_GUARD, Guard, Unit
from sonoray.phantom import PhantomConfig, build_study, plan_study
from sonoray.phantom.chest import build_chest
from sonoray.study.raw import RawStudy

_FEW_STUDIES = 24
"""Up to so many, starting processes (1 s) costs more than they save."""


@dataclass(frozen=True, slots=True)
class PhantomSource:
    """Studies of `sonoray.phantom`."""

    settings: PhantomConfig
    name: str = "phantom"
    public: bool = True

    def __len__(self) -> int:
        """Number of studies that `iter_studies` yields."""
        return self.settings.num_patients * self.settings.studies_per_patient

    def iter_studies(self) -> Iterator[RawStudy]:
        """Yield every study once, patient by patient."""
        if len(self) <= _FEW_STUDIES:
            for patient in range(self.settings.num_patients):
                yield from _draw_patient(self.settings, patient)
            return
        # spawned, not forked: the caller may hold threads, Ray's among them
        context = multiprocessing.get_context("spawn")
        workers = os.cpu_count() or 1
        ahead: deque[Future[list[RawStudy]]] = deque()
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            for patient in range(self.settings.num_patients):
                ahead.append(pool.submit(_draw_patient, self.settings, patient))
                if len(ahead) > 4 * workers:
                    yield from ahead.popleft().result()
            for drawn in ahead:
                yield from drawn.result()

    @property
    def guard(self) -> Guard:
        """Nothing is decoded."""
        return NO_GUARD

    def iter_units(self, pool: GuardedPool) -> Iterator[Unit]:
        """Yield a unit for every study, patient by patient, to be drawn where it is read."""
        del pool
        for patient in range(self.settings.num_patients):
            for number in range(self.settings.studies_per_patient):
                yield PhantomUnit(settings=self.settings, patient=patient, number=number)

    def config(self) -> dict[str, Any]:
        """Return the configuration as JSON values."""
        return self.settings.model_dump(mode="json")

    def input_digest(self) -> str:
        """Nothing is read; the generator's code is in the stage's key as that of every source."""
        return ""


@dataclass(frozen=True, kw_only=True, slots=True)
class PhantomUnit:
    """A study by its number (`sonoray.ingest.units`)."""

    settings: PhantomConfig
    patient: int
    number: int
    calls: Sequence[Callable[[], Any]] = ()

    def build(self, decoded: Sequence[Future[Any]], pool: GuardedPool) -> RawStudy:
        """Draw it."""
        del decoded, pool
        return draw_study(self.settings, self.patient, self.number)


def draw_study(settings: PhantomConfig, patient: int, number: int) -> RawStudy:
    """A study of the modality that is simulated."""
    if settings.modality == "projection":
        return build_chest(settings, patient, number)
    return build_study(settings, plan_study(settings, patient, number))


def _draw_patient(settings: PhantomConfig, patient: int) -> list[RawStudy]:
    """All studies of one patient."""
    numbers = range(settings.studies_per_patient)
    return [draw_study(settings, patient, number) for number in numbers]
