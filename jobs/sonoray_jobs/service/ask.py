"""Ask: put a question about a study to a running service.

The study is a handful of image files or DICOM objects, one of an ingested dataset, or one of the
service's DICOMweb server by its UID; what is sent
and what comes back stands in `sonoray_jobs.service.service_client`.
"""

import stat
from collections.abc import Sequence
from pathlib import Path

from sonoray.errors import DataError
from sonoray.workspace import Workspace
from sonoray_jobs.road.config import RoadConfig
from sonoray_jobs.service.service_client import Picture, Reply, ask, read_key, study_pictures
from sonoray_serve.pictures.dicom_pictures import is_dicom
from sonoray_serve.settings import Limits

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


def gather_pictures(
    workspace: Workspace, road: RoadConfig, images: Sequence[Path], study: str | None, dataset: str
) -> list[Picture]:
    """The pictures of image files, or of a study of a dataset.

    Raises:
        DataError: there is no such study, or an image is no file, too large or cannot be read.
    """
    if study is not None:
        return study_pictures(workspace, dataset, study)
    return [_picture(path, road.serve.limits) for path in images]


def _picture(path: Path, limits: Limits) -> Picture:
    try:
        status = path.stat()  # before it is opened: a pipe would wait, a device never ends
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"image {str(path)!r} is no file; give the image file itself")
        with path.open("rb") as file:
            is_object = is_dicom(file.read(132))
        setting = "max_object_bytes" if is_object else "max_image_bytes"
        max_bytes: int = getattr(limits, setting)
        if status.st_size > max_bytes:
            raise DataError(
                f"image {str(path)!r} has {status.st_size:,} bytes, the service takes at most "
                f"{max_bytes:,}; store it smaller, or raise serve.limits.{setting} there "
                "and here"
            )
        return Picture(name=str(path), data=path.read_bytes())
    except OSError as error:
        raise DataError(
            f"image {str(path)!r} cannot be read ({error.strerror}); check the path"
        ) from None
