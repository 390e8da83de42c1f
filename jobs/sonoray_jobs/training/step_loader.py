"""What a step's data are, and the actor that reads them: texts from the study table, features.

One row is a run of consecutive steps of a worker's plans: a call costs some 10 ms to schedule, a
step of the tiny road 5 ms to load. A row goes between processes as plain values, so that the loader
needs no torch and starts seconds sooner. Of the studies a loader holds the index alone, four bytes
each, and the row groups that it decoded last (`sonoray.study.study_index`).
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from llava_ultra.recognition.bank import ClassBank
from sonoray.study.choosing.held_out import without_topics
from sonoray.study.contract import SPLITS, Study, StudyImage
from sonoray.study.prompt import NO_PROTOCOL, ReportProtocol, conversation, with_site_cue
from sonoray.study.sample_order import Plan, Step, turns_of_epoch
from sonoray.study.study_index import StudyIndex, StudyReader
from sonoray_jobs.towers.feature_source import FeatureReader, FeatureSource, split_by_study
from sonoray_jobs.towers.views import Views

if TYPE_CHECKING:
    from llava_ultra.batch import StudyFeatures

Row = dict[str, Any]

_MOST_STEPS = 16
"""Steps of a row, where they are small."""
_ROW_BYTES = 32 * 2**20
"""What a row of big steps aims at; it has one step at least."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepSource:
    """Where the steps of one worker come from; goes to its loaders."""

    features: FeatureSource
    """Where features come from, and the dataset."""
    index: StudyIndex
    """The training studies."""
    plans: tuple[Plan, ...]
    """The worker's steps, stage by stage, and between them those that judge the model."""
    turns_per_epoch: int
    """Turns asked of each study in an epoch; 0 asks all."""
    site_cue: bool
    """Whether questions begin with the examination site."""
    hold_out: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Labels whose turns are not asked: `train.hold_out`."""
    reports: bool = False
    """Whether recognition learns from the studies' reports."""
    bank: ClassBank | None = None
    """Whose classes the studies are told by."""
    protocol: ReportProtocol = NO_PROTOCOL
    """What is asked before a report."""
    validation: StudyIndex | None = None
    """The studies that judge the model; None where no plan is of them."""

    def rows(self) -> list[Row]:
        """The rows of the stream: the numbers of their first step and of the step after them."""
        total = sum(len(plan) for plan in self.plans)
        steps = self._steps_per_row()
        return [
            {"start": start, "stop": min(start + steps, total)} for start in range(0, total, steps)
        ]

    def steps(self, row: Row) -> list[Step]:
        """The steps of a row."""
        ends = list(itertools.accumulate(len(plan) for plan in self.plans))
        found = []
        for number in range(row["start"], row["stop"]):
            place = next(place for place, end in enumerate(ends) if number < end)
            plan = self.plans[place]
            found.append(plan[number - (ends[place] - len(plan))])
        return found

    def _steps_per_row(self) -> int:
        share = max(
            (plan.studies_per_step / plan.num_ranks for plan in self.plans),
            default=1,
        )
        step_bytes = share * self.index.images_per_study * self.features.image_bytes
        return int(min(_MOST_STEPS, max(1, _ROW_BYTES // max(1, step_bytes))))


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedStep:
    """One step's data on its worker."""

    step: Step
    features: list["StudyFeatures"]
    rows: list[tuple[int, Sequence[str], str]]
    """(position in `features`, conversation up to the question, answer) of every question."""
    options: list[Sequence[str]] = field(default_factory=list)
    """Of each row of a step that judges the model: the admissible answers, where there are some."""
    reports: list[str] = field(default_factory=list)
    """The longest text of each study; empty where nothing learns from it."""
    classes: list[tuple[int, ...]] = field(default_factory=list)
    """Numbers of each study's classes in the bank."""


class StepLoader:
    """Reads the texts and features of a row's steps."""

    def __init__(self, source: StepSource) -> None:
        self._source = source
        indices = {"train": source.index, "validation": source.validation}
        self._studies = {
            split: StudyReader(source.features.dataset, index)
            for split, index in indices.items()
            if index is not None
        }
        self._features = FeatureReader(source.features)

    def __call__(self, row: Row) -> Row:
        """Read a row; see `unpack_steps` for what becomes of it."""
        images: list[StudyImage] = []
        views: list[int] = []
        counts, asked, questions, answers, options = [], [], [], [], []
        reports, classes = [], []
        for step in self._source.steps(row):
            for study in self._read(step):
                chosen = self._chosen(study, step)
                images += study.images
                views += self._views(study, step)
                counts.append(len(study.images))
                asked.append(len(chosen))
                questions += [
                    conversation(study.turns, number, self._source.protocol) for number in chosen
                ]
                answers += [study.turns[number].answer for number in chosen]
                if self._source.reports:
                    reports.append(max((turn.answer for turn in study.turns), key=len))
                    classes.append(self._classes(study))
                if step.split != SPLITS[0]:
                    options += [study.turns[number].options for number in chosen]
        features = self._features.read(images, views)
        return {
            **row,
            "counts": counts,
            "asked": asked,
            "questions": questions,
            "answers": answers,
            "reports": reports,
            "classes": classes,
            "options": options,
            **{tower: array.tobytes() for tower, array in features.items()},
        }

    def _read(self, step: Step) -> list[Study]:
        """Studies as they are trained on."""
        hold_out = self._source.hold_out
        read = self._studies[step.split].read(step.studies)
        studies = [without_topics(study, hold_out) for study in read]
        return [with_site_cue(study) for study in studies] if self._source.site_cue else studies

    def _classes(self, study: Study) -> str:
        """Numbers of a study's classes, as a text: no ragged list goes into a block."""
        bank = self._source.bank
        return " ".join(map(str, bank.classes_of(study.labels))) if bank else ""

    def _views(self, study: Study, step: Step) -> list[int]:
        """Which view of each image to read; of those that judge the model, the image itself."""
        views = self._source.features.views
        if step.split != SPLITS[0] or not isinstance(views, Views):
            return [0] * len(study.images)
        return [
            views.of_epoch(image.image_id, seed=step.seed, epoch=step.epoch)
            for image in study.images
        ]

    def _chosen(self, study: Study, step: Step) -> list[int]:
        return turns_of_epoch(
            study.study_id,
            len(study.turns),
            turns_per_epoch=self._source.turns_per_epoch,
            seed=step.seed,
            epoch=step.epoch,
        )


def unpack_steps(source: StepSource, row: Row) -> Iterator[LoadedStep]:
    """Yield the steps of a loaded row."""
    features = iter(
        split_by_study(
            {
                tower: np.frombuffer(row[tower], dtype=store.dtype).reshape(-1, *store.shape)
                for tower, store in source.features.stores.items()
            },
            row["counts"],
        )
    )
    asked, texts = iter(row["asked"]), zip(row["questions"], row["answers"], strict=True)
    reports, classes = iter(row["reports"]), iter(row["classes"])
    options = iter(row["options"])
    for step in source.steps(row):
        share = range(len(step.studies))
        rows = [
            (position, *text)
            for position in share
            for text in itertools.islice(texts, int(next(asked)))
        ]
        judged = len(rows) if step.split != SPLITS[0] else 0
        yield LoadedStep(
            step=step,
            features=list(itertools.islice(features, len(share))),
            rows=rows,
            options=list(itertools.islice(options, judged)),
            reports=list(itertools.islice(reports, len(share))),
            classes=[
                tuple(map(int, each.split())) for each in itertools.islice(classes, len(share))
            ],
        )
