"""The pictures of a study that a client sends: of a dataset, or of files."""

import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sonoray.errors import DataError
from sonoray.study.contract import Study, iter_studies
from sonoray.workspace import Workspace
from sonoray_jobs.road.config import RoadConfig
from sonoray_serve.pictures.dicom_pictures import is_dicom
from sonoray_serve.settings import Limits


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One image of the study that is asked about."""

    name: str
    """What to call it in the answer: a path or a source reference."""
    data: bytes
    """The encoded image."""


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


def study_pictures(workspace: Workspace, dataset: str, study_id: str) -> list[Picture]:
    """The images of an ingested study, in its order.

    Raises:
        DataError: there is no such dataset or study.
    """
    folder = workspace.dataset(dataset).path
    study = next((each for each in iter_studies(folder) if each.study_id == study_id), None)
    if study is None:
        raise DataError(
            f"dataset {dataset!r} has no study {study_id!r}; check --study and --dataset"
        )
    return pictures_of(folder, study)


def pictures_of(folder: Path, study: Study) -> list[Picture]:
    """The images of a study of the dataset in `folder`, in its order."""
    import pyarrow.parquet as pq

    data: dict[str, bytes] = {}
    for uri in {image.uri for image in study.images}:
        wanted = [image.image_id for image in study.images if image.uri == uri]
        table = pq.read_table(
            folder / uri, columns=["image_id", "png"], filters=[("image_id", "in", wanted)]
        )
        data.update((row["image_id"], row["png"]) for row in table.to_pylist())
    return [
        Picture(name=image.source_ref or image.image_id[:12], data=data[image.image_id])
        for image in study.images
    ]
