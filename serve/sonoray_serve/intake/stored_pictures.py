"""The objects of a fetched study as its pictures, as `sonoray ingest dicomweb` makes them.

The order is that of ingest: series number, instance number, frame. So are the choice of frames, the
cut to the scan area and the search for burned-in text, which knows the words by which any object of
the study names people. What gives no picture is left out and counted, as ingest counts it; a study
whose objects name several patients gives none at all.
"""

from collections import Counter
from typing import TYPE_CHECKING

from sonoray.images.decode import ImageLimits, RejectedImageError
from sonoray.study.identifiers import NOBODY
from sonoray_serve.intake.study_server import FetchedStudy, reason_of, tell_reasons
from sonoray_serve.pictures.dicom_pictures import describe_dicom, read_dicom
from sonoray_serve.pictures.study_pictures import Picture, StudyImages, StudyPictures
from sonoray_serve.problems import ApiError, Problem
from sonoray_serve.settings import Limits

if TYPE_CHECKING:
    from sonoray.ingest.dicom.objects import ObjectInfo

_TOO_MANY_PIXELS = "too_many_pixels"


def read_study(
    study: FetchedStudy, max_images: int, *, source: StudyPictures, place: str
) -> StudyImages:
    """The pictures of a study, and what was left out.

    Args:
        study: its objects.
        max_images: most pictures that are taken.
        source: decodes objects, under the service's limits.
        place: the parameter that named the study.

    Raises:
        ApiError: 400; it has no picture, too many of them, or several patients.
    """
    pool, reading, limits = source.pool, source.reading, source.limits
    left_out = Counter(study.left_out)
    accepted = _accepted(limits, limits.max_image_pixels)
    usable: list[tuple[ObjectInfo, str]] = []
    known, patients = NOBODY, set[str]()
    for uid, data in study.objects.items():
        try:
            info = pool.submit(describe_dicom, data, reading, accepted).result()
            if info.study_uid != study.uid:
                raise RejectedImageError("other_study: the object names another study")
        except RejectedImageError as error:
            left_out[error.reason] += 1
            continue
        known = known.joined(info.identifiers)
        patients |= {info.patient_id} - {""}
        if info.problem:
            left_out[reason_of(info.problem)] += 1
        else:
            usable.append((info, uid))
    if len(patients) > 1:
        raise ApiError(Problem.STUDY_OF_SEVERAL_PATIENTS, place)
    pictures: list[Picture] = []
    left, num_objects = limits.max_study_pixels, 0
    for _, uid in sorted(usable, key=lambda each: (each[0].order, each[1])):
        max_pixels = max(min(limits.max_image_pixels, left), 1)
        try:
            task = pool.submit(
                read_dicom, study.objects[uid], reading, _accepted(limits, max_pixels), known
            )
            frames = task.result()
        except RejectedImageError as error:
            if error.reason == _TOO_MANY_PIXELS and max_pixels < limits.max_image_pixels:
                left = -1  # by itself it might be taken
            else:
                left_out[error.reason] += 1
                continue
        else:
            left -= sum(pixels.shape[0] * pixels.shape[1] for _, pixels in frames)
        if left < 0:
            raise ApiError(Problem.IMAGE_TOO_MANY_PIXELS, place, limits.max_study_pixels)
        pictures += [
            Picture(pixels=pixels, part=num_objects, frame=index, instance=uid)
            for index, pixels in frames
        ]
        num_objects += 1
        if len(pictures) > max_images:
            raise ApiError(Problem.STUDY_HAS_TOO_MANY_PICTURES, place, max_images)
    if not pictures:
        raise ApiError(Problem.STUDY_NOT_USABLE, place, detail=tell_reasons(left_out))
    return StudyImages(pictures=pictures, left_out=left_out)


def _accepted(limits: Limits, max_pixels: int) -> ImageLimits:
    return ImageLimits(max_bytes=limits.max_object_bytes, max_pixels=max_pixels)
