"""The studies that a road trains on: found in the table, and gone through once.

Driver and workers keep the index of them alone, four bytes a study (`sonoray.study.study_index`);
texts are read again where they are needed.
"""

from collections.abc import Iterator
from pathlib import Path

from sonoray.errors import DataError
from sonoray.study.contract import Study, iter_studies
from sonoray.study.prompt import with_site_cue
from sonoray.study.study_index import StudyIndex, index_studies
from sonoray_jobs.road.train_config import TrainConfig

_SPLIT = "train"


def training_index(dataset: Path, settings: TrainConfig) -> StudyIndex:
    """Find the training studies.

    Raises:
        DataError: none has the labels of `train.only`.
    """
    index = index_studies(dataset, split=_SPLIT, only=settings.only, most=settings.max_studies)
    if not len(index):
        raise _none_has(settings)
    return index


def validation_index(dataset: Path, settings: TrainConfig) -> StudyIndex | None:
    """Find the studies that judge a model while it trains; None where there are none, or none are.

    They must be one a worker at least.
    """
    if settings.validate_every == "never":
        return None
    index = index_studies(
        dataset, split="validation", only=settings.only, most=settings.validation_studies
    )
    return index if len(index) >= settings.num_workers else None


def iter_training_studies(dataset: Path, settings: TrainConfig) -> Iterator[Study]:
    """Yield the studies as they are trained on, in the table's order.

    Raises:
        DataError: none has the labels of `train.only`, or one lacks the site of the cue.
    """
    number = 0
    for study in iter_studies(dataset, split=_SPLIT, only=settings.only):
        if number == (settings.max_studies or None):
            break
        number += 1
        yield with_site_cue(study) if settings.site_cue else study
    if not number:
        raise _none_has(settings)


def _none_has(settings: TrainConfig) -> DataError:
    return DataError(
        f"no training study has the labels of train.only = {settings.only}; correct it, or "
        "ingest more patients"
    )
