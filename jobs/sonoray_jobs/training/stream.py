"""The training data stream of one worker: a Ray Data actor fetches a step's studies and features.

Each row of the dataset is one step of the plan (`sonoray.study.sample_order`); the actor turns it
into the step's texts and features. The worker therefore gets exactly its planned samples in exactly
the planned order, while loading runs ahead of it on CPUs of its own. It is an actor and no task
because it reads the studies' texts and the stores' index once: beside two trainings on two cores
Ray ended idle task processes all the time and started others, which took a third of the machine.

Ray Data's scheduling loop has a process of its own too (the coordinator of a split in one). As a
thread of the worker it fights for the interpreter lock with the thousands of small operators of a
step, which made a step of the tiny road three times as long (3.1 s against 1.0 s, two cores). And
it is slowed down: once enough is loaded ahead it turns without waiting for anything, which took 40
% of a core beside each of two trainings (Ray 2.60).
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sonoray.errors import DataError
from sonoray.features.store import FeatureStore
from sonoray.study.contract import Study, iter_studies
from sonoray.study.prompt import with_site_cue
from sonoray.study.sample_order import Step, turns_of_epoch
from sonoray_jobs.road.config import TrainConfig

if TYPE_CHECKING:
    from ray.data._internal.execution.execution_callback import ExecutionCallback

    from llava_ultra.batch import StudyFeatures

_STEPS_PER_CALL = 4
"""Steps that one call loads: a call costs some 10 ms to schedule, a step of the tiny road 5 ms."""

_LOOP_PAUSE_S = 0.05
"""What Ray Data's scheduling loop waits each time. It bounds the loading at some 50 steps a second
(85 without, two busy cores); a step of the tiny road takes 0.4 s."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedStep:
    """One step's data on its worker."""

    step: Step
    features: list["StudyFeatures"]
    rows: list[tuple[int, str, str]]
    """(position in `features`, question, answer) of every question."""


def training_studies(dataset: Path, settings: TrainConfig) -> list[Study]:
    """Return the studies as they are trained on.

    Raises:
        DataError: no study has the labels of `train.only`, or one lacks the site of the cue.
    """
    studies = list(iter_studies(dataset, split="train", only=settings.only))
    if not studies:
        raise DataError(
            f"no training study has the labels of train.only = {settings.only}; correct it, or "
            "ingest more patients"
        )
    studies = studies[: settings.max_studies or None]
    return [with_site_cue(study) for study in studies] if settings.site_cue else studies


def iter_loaded_steps(
    steps: Sequence[Step],
    *,
    dataset: Path,
    stores: Mapping[str, FeatureStore],
    turns_per_epoch: int,
    site_cue: bool,
    num_cpus: float,
) -> Iterator[LoadedStep]:
    """Yield the data of `steps` in order, loaded ahead by Ray Data.

    Args:
        steps: the worker's plan.
        dataset: dataset folder.
        stores: feature stores by tower, `clip` and `sam`.
        turns_per_epoch: turns asked of each study in an epoch; 0 asks all.
        site_cue: whether questions begin with the examination site.
        num_cpus: logical CPUs of the loading actor.
    """
    import ray

    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.custom_execution_callback_classes = [_slow_loop()]
    rows = [
        {
            "index": index,
            "study_ids": list(step.study_ids),
            "seed": step.seed,
            "epoch": step.epoch,
        }
        for index, step in enumerate(steps)
    ]
    loaded = ray.data.from_items(
        rows, override_num_blocks=max(1, len(rows) // _STEPS_PER_CALL)
    ).map(
        StepLoader,  # type: ignore[arg-type]
        fn_constructor_kwargs={
            "dataset": dataset,
            "stores": dict(stores),
            "turns_per_epoch": turns_per_epoch,
            "site_cue": site_cue,
        },
        num_cpus=num_cpus,
        compute=ray.data.ActorPoolStrategy(size=1),
    )
    (stream,) = loaded.streaming_split(1, equal=False)
    for row in stream.iter_rows():
        yield _unpack(steps[row["index"]], row, stores)


def _slow_loop() -> type["ExecutionCallback"]:
    from ray.data._internal.execution.execution_callback import ExecutionCallback

    class SlowLoop(ExecutionCallback):
        def on_execution_step(self, executor: object) -> None:
            time.sleep(_LOOP_PAUSE_S)

    return SlowLoop


class StepLoader:
    """Turns a row of the plan into a step's data, as plain values.

    A process that needs no torch starts seconds sooner.
    """

    def __init__(
        self,
        *,
        dataset: Path,
        stores: Mapping[str, FeatureStore],
        turns_per_epoch: int,
        site_cue: bool,
    ) -> None:
        studies = iter_studies(dataset, split="train")  # text only, no pixels
        self._studies = {study.study_id: study for study in studies}
        self._stores = stores
        self._turns_per_epoch = turns_per_epoch
        self._site_cue = site_cue

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Read the texts and features of one step."""
        studies = self._chosen(row["study_ids"])
        image_ids = [image.image_id for study in studies for image in study.images]
        questions = []
        for position, study in enumerate(studies):
            chosen = turns_of_epoch(
                study.study_id,
                len(study.turns),
                turns_per_epoch=self._turns_per_epoch,
                seed=row["seed"],
                epoch=row["epoch"],
            )
            turns = [study.turns[number] for number in chosen]
            questions += [(position, turn.question, turn.answer) for turn in turns]
        features = {tower: store.read(image_ids) for tower, store in self._stores.items()}
        return {
            "index": row["index"],
            "counts": [len(study.images) for study in studies],
            **{tower: array.tobytes() for tower, array in features.items()},
            "positions": [position for position, _, _ in questions],
            "questions": [question for _, question, _ in questions],
            "answers": [answer for _, _, answer in questions],
        }

    def _chosen(self, study_ids: Sequence[str]) -> list[Study]:
        """Studies as they are trained on; others may lack the site."""
        studies = [self._studies[study_id] for study_id in study_ids]
        return [with_site_cue(study) for study in studies] if self._site_cue else studies


def _unpack(step: Step, row: dict[str, Any], stores: Mapping[str, FeatureStore]) -> LoadedStep:
    import numpy as np

    from llava_ultra.batch import StudyFeatures

    ends = np.cumsum(row["counts"])[:-1]
    arrays = {
        tower: np.split(
            np.frombuffer(row[tower], dtype=store.dtype).reshape(-1, *store.shape), ends
        )
        for tower, store in stores.items()
    }
    features = [
        StudyFeatures(clip=clip, sam=sam)
        for clip, sam in zip(arrays["clip"], arrays["sam"], strict=True)
    ]
    positions = [int(position) for position in row["positions"]]
    rows = list(zip(positions, row["questions"], row["answers"], strict=True))
    return LoadedStep(step=step, features=features, rows=rows)
