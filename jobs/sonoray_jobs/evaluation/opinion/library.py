"""The studies that exemplars are taken from: the nearest by features.

Exemplars of an option are the nearest studies that have it as answer, that are not suspect and of
another patient: by the cosine of the mean over the images that count, of both towers, standardised.
Suspect studies are exemplars where there are no others.

Axes: S studies.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sonoray.study.contract import Study
from sonoray_jobs.evaluation.probing.linear import Asked

_LEAST_DEVIATION = 1e-6


class Library:
    """The studies that exemplars are taken from."""

    def __init__(self, asked: Asked, suspect: npt.NDArray[np.bool_]) -> None:
        """Pool their features.

        Args:
            asked: all studies, with the answers that are doubted.
            suspect: (S,) whether the answer is.
        """
        counts = np.bincount(asked.owner)[:, None]
        mean = (
            np.stack([np.bincount(asked.owner, column) for column in asked.features.T], axis=1)
            / counts
        )
        scaled = (mean - mean.mean(axis=0)) / np.maximum(mean.std(axis=0), _LEAST_DEVIATION)
        lengths = np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), _LEAST_DEVIATION)
        self._vectors = scaled / lengths
        self._studies = asked.studies
        self._answers, self._patients = asked.truths, asked.patients
        self._suspect = suspect

    def nearest(self, place: int, answers: Sequence[str], most: int) -> list[Study]:
        """The nearest studies of other patients that have one of some answers, nearest first."""
        may = np.isin(self._answers, answers) & (self._patients != self._patients[place])
        places = np.flatnonzero(may)
        likeness = self._vectors[places] @ self._vectors[place]
        order = np.lexsort((-likeness, self._suspect[places]))[:most]
        return [self._studies[each].study for each in places[order]]
