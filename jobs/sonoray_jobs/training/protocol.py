"""What a model is asked before a report, as its training studies tell; for whoever starts a job.

A worker is told and does not look: this module reads all texts of the training once, and keeps
counts.
"""

from pathlib import Path

from sonoray.study.prompt import NO_PROTOCOL, ReportProtocol
from sonoray_jobs.data.closed_questions import read_protocol
from sonoray_jobs.road.train_config import TrainConfig
from sonoray_jobs.training.studies import iter_training_studies


def training_protocol(dataset: Path, settings: TrainConfig) -> ReportProtocol:
    """What is asked before a report (`train.closed_first`), as the training studies tell.

    Raises:
        DataError: none has the labels of `train.only`.
    """
    if not settings.closed_first:
        return NO_PROTOCOL
    asked = settings.model_copy(update={"site_cue": False})
    return read_protocol(iter_training_studies(dataset, asked))
