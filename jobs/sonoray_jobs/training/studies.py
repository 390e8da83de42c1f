"""The studies that a road trains on: found in the table, and gone through once.

Driver and workers keep the index of them alone, four bytes a study (`sonoray.study.study_index`);
texts are read again where they are needed.
"""

from collections.abc import Iterator
from pathlib import Path

from sonoray.errors import DataError
from sonoray.study.choosing.held_out import is_held_out, without_topics
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
    index = index_studies(
        dataset,
        split=_SPLIT,
        only=settings.only,
        most=settings.max_studies,
        hold_out=settings.hold_out,
    )
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
        dataset,
        split="validation",
        only=settings.only,
        most=settings.validation_studies,
        hold_out=settings.hold_out,
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
        if is_held_out(study, settings.hold_out):
            continue
        number += 1
        yield as_trained(study, settings)
    if not number:
        raise _none_has(settings)


def as_trained(study: Study, settings: TrainConfig) -> Study:
    """A study with the turns that are learned, worded as they are.

    Raises:
        DataError: it lacks the site of the cue, or has no turn left.
    """
    left = without_topics(study, settings.hold_out)
    return with_site_cue(left) if settings.site_cue else left


def _none_has(settings: TrainConfig) -> DataError:
    return DataError(
        f"no training study has the labels of train.only = {settings.only}"
        f"{f' beside train.hold_out = {settings.hold_out}' if settings.hold_out else ''}; correct "
        "it, or ingest more patients"
    )
