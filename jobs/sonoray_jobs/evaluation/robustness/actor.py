"""Actors on Ray Data: reference images described under every condition, questions answered.

A row is a study under one condition, so that one pass of the pipeline goes through all of them and
loads the towers and the model once in each actor. Closed questions are decided by likelihood and
nothing is written freely: a judgement counts answers, and writing takes most of an evaluation.
"""

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llava_ultra.batch import StudyFeatures
from llava_ultra.language.decoder import Language
from llava_ultra.model import LlavaUltra
from llava_ultra.perturbations.calibration import CLEAN, Prototypes, describe
from sonoray.study.contract import Study
from sonoray_jobs.evaluation.answer import AnswerActor
from sonoray_jobs.evaluation.robustness.conditions import Conditions
from sonoray_jobs.towers.feature_source import FeatureReader, FeatureSource

if TYPE_CHECKING:
    from sonoray_jobs.road.config import EvaluateConfig


class ReferenceActor:
    """The towers in one process: studies under a condition in, descriptions of the images out."""

    def __init__(self, settings: "EvaluateConfig", features: FeatureSource, device: str) -> None:
        """Load the towers; what an answering actor needs besides is ignored."""
        del settings, device  # the source says where its towers run
        self._features = FeatureReader(features)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return `condition` and by tower (N, 2 C) moments of the N images of a batch."""
        studies = [Study.from_row(json.loads(row)) for row in batch["study"]]
        conditions = [int(number) for number in batch["condition"]]
        images = [image for study in studies for image in study.images]
        each = [
            number for number, study in zip(conditions, studies, strict=True) for _ in study.images
        ]
        found = describe(self._features.read(images, each))
        return {"condition": np.array(each)} | {
            tower: moments.reshape(len(images), -1) for tower, moments in found.items()
        }


class ConditionActor(AnswerActor):
    """A model in one process: studies under a condition in, answers out, also calibrated ones."""

    def __init__(
        self,
        load: Callable[[], tuple[LlavaUltra, Language]],
        conditions: Conditions,
        prototypes: Prototypes | None,
        settings: "EvaluateConfig",
        features: FeatureSource,
        device: str,
    ) -> None:
        """Load the model.

        Args:
            load: returns the model and its language side.
            conditions: what the numbers in the rows mean.
            prototypes: of the conditions `conditions.of_images()`, after the clean one; None
                where nothing is calibrated.
            settings: how questions are read together.
            features: where the images' features come from; its views are the conditions.
            device: where the model runs.
        """
        super().__init__(load, settings, features, device, answers_freely=False)
        self._conditions = conditions
        self._prototypes = prototypes

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Answer all questions of a batch; one row per question, two where it is calibrated."""
        numbers = [int(number) for number in batch["condition"]]
        studies = [
            self._conditions.word(Study.from_row(json.loads(row)), number)
            for row, number in zip(batch["study"], numbers, strict=True)
        ]
        features = self._features.read_studies([study.images for study in studies], numbers)
        rows = self._told(studies, features, numbers, [[] for _ in studies], is_calibrated=False)
        if self._prototypes is not None:
            moved, recognised = self._calibrated(features)
            rows += self._told(studies, moved, numbers, recognised, is_calibrated=True)
        return {key: [row[key] for row in rows] for key in rows[0]}

    def _told(
        self,
        studies: Sequence[Study],
        features: Sequence[StudyFeatures],
        numbers: Sequence[int],
        recognised: Sequence[Sequence[int]],
        *,
        is_calibrated: bool,
    ) -> list[dict[str, Any]]:
        return [
            {
                **row,
                "question_number": place,
                "condition": number,
                "is_calibrated": is_calibrated,
                "recognised": list(taken),
            }
            for rows, number, taken in zip(
                self.answer(studies, features), numbers, recognised, strict=True
            )
            for place, row in enumerate(rows)
        ]

    def _calibrated(
        self, features: Sequence[StudyFeatures]
    ) -> tuple[list[StudyFeatures], list[list[int]]]:
        """Features with clean moments, and what each image was taken to be under."""
        assert self._prototypes is not None
        under = [CLEAN, *self._conditions.of_images()]
        moved, recognised = [], []
        for study in features:
            given = study.towers
            found = self._prototypes.recognise(given)
            restored = self._prototypes.restore(given, found)
            moved.append(StudyFeatures.of_towers(restored))
            recognised.append([under[number] for number in found])
        return moved, recognised
