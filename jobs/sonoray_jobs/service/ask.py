"""Ask: put a question about a study to a running service.

The study is a handful of image files or DICOM objects, one of an ingested dataset, or one of the
service's DICOMweb server by its UID; what is sent
and what comes back stands in `sonoray_jobs.service.service_client`.
"""

from collections.abc import Sequence
from pathlib import Path

from sonoray.errors import DataError
from sonoray.workspace import Workspace
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.service.sent_pictures import gather_pictures
from sonoray_jobs.service.service_client import Reply, ask, read_key

_PAST_DEADLINE_S = 30.0
"""Above the service's own deadline, so that its answer to that comes through."""


def run(
    *,
    workspace: Workspace,
    road: RoadConfig,
    question: str,
    images: Sequence[Path],
    study: str | None = None,
    study_uid: str | None = None,
    dataset: str = "phantom",
    url: str,
    api_key_file: Path | None = None,
) -> Reply:
    """Ask about image files, a study of a dataset, or one that the service fetches by its UID.

    Of `road` the service's limits count: a file above them would be refused there, once it is read,
    and an answer may take as long as they allow.

    Raises:
        ConfigError: the key file is not usable.
        DataError: not one of images, study and UID is given, or an image is no file, too large or
            cannot be read.
        ServingError: the service cannot be reached or refuses; with its own reason.
    """
    if bool(images) + (study is not None) + (study_uid is not None) != 1:
        raise DataError(
            "give either the study's image files, --study or --study-uid, one of the three"
        )
    pictures = gather_pictures(workspace, road, images, study, dataset)
    timeout_s = road.serve.limits.deadline_s + _PAST_DEADLINE_S
    return ask(
        question,
        pictures,
        url=url,
        api_key=read_key(api_key_file),
        study_uid=study_uid,
        timeout_s=timeout_s,
    )
