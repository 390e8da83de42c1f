"""A linear probe of classes on the frozen towers: what labels alone would teach, without a decoder.

A study is the mean over its images of the mean of their tokens, and the maximum over its images of
their maximum, of both towers. A class is told from all others by a logistic regression on the
training studies (`sonoray_jobs.evaluation.probing.linear`). Unlike recognition it needs labelled
studies of each class: of one that training never saw it knows nothing, and gives every study the
same score.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from llava_ultra.recognition.bank import ClassBank
from sonoray.study.contract import Study, Task, Turn
from sonoray_jobs.evaluation.probing.linear import Asked, fit
from sonoray_jobs.evaluation.probing.pooling import PooledStudy
from sonoray_jobs.towers.feature_source import FeatureReader, FeatureSource

_YES, _NO = "yes", "no"
_STUDIES_AT_ONCE = 16

Pooled = npt.NDArray[np.float32]


def probe_classes(
    learned: Sequence[Study], tested: Sequence[Study], bank: ClassBank, features: FeatureSource
) -> npt.NDArray[np.float64]:
    """Probability of each class (N, C) of the studies that are tested; 0 where none was learned.

    Args:
        learned: training studies with images; those without a class of the bank are left out.
        tested: with images.
        bank: the classes.
        features: of both towers.
    """
    known = [study for study in learned if bank.classes_of(study.labels)]
    reader = FeatureReader(features)
    ours, theirs = pool_studies(known, reader), pool_studies(tested, reader)
    scores = np.zeros((len(tested), len(bank.classes)))
    for number in range(len(bank.classes)):
        probe = fit(_asked(known, ours, bank, number)) if known else None
        if probe is not None:
            logs = probe.log_probabilities(_asked(tested, theirs, bank, number))
            scores[:, number] = np.exp(logs[:, probe.options.index(_YES)])
    return scores


def pool_studies(studies: Sequence[Study], reader: FeatureReader) -> Pooled:
    """One row (N, 2 * (C1 + C2 + ...)) for each study, float32."""
    rows: list[Pooled] = []
    for start in range(0, len(studies), _STUDIES_AT_ONCE):
        part = [study.images for study in studies[start : start + _STUDIES_AT_ONCE]]
        for found in reader.read_studies(part):
            towers = [each.astype(np.float32) for each in found.towers.values()]
            pooled = [f(each, axis=(0, 1)) for each in towers for f in (np.mean, np.max)]
            rows.append(np.concatenate(pooled))
    return np.stack(rows) if rows else np.zeros((0, 0), np.float32)


def _asked(studies: Sequence[Study], rows: Pooled, bank: ClassBank, number: int) -> Asked:
    """Whether each study is of a class, as a probe's question."""
    turns = [
        Turn(
            question=bank.names[number],
            answer=_YES if number in bank.classes_of(study.labels) else _NO,
            task=Task.CLOSED,
            options=(_YES, _NO),
            topic=bank.names[number],
        )
        for study in studies
    ]
    return Asked(
        studies=[PooledStudy(study=study, towers={}) for study in studies],
        turns=turns,
        features=rows,
        owner=np.arange(len(studies)),
    )
