"""The images of a request as the pictures of a study, under the service's limits.

A still is one picture. A DICOM object is as many as ingest takes of it: one of a still, some frames
of a loop. Every header is read before a pixel is decoded, and all pictures of a study share one
budget of pixels. Stills are decoded here; DICOM objects in a guarded process, which starts with the
first of them (1 to 2 s) and then stays up.
"""

import atexit
import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock

from sonoray.images.decode import (
    DEFAULT_LIMITS,
    ImageLimits,
    Pixels,
    RejectedImageError,
    decode_picture,
)
from sonoray.images.sandbox import GuardedPool
from sonoray.images.webp_header import check_webp
from sonoray_serve.pictures.dicom_pictures import is_dicom, read_dicom
from sonoray_serve.problems import ApiError, Problem
from sonoray_serve.settings import DicomReading, Limits

STILLS = (*DEFAULT_LIMITS.formats, "WEBP")
"""Pillow's names of the formats of stills."""
THUMBNAIL_SIDE = 256
"""Longer side of a thumbnail, in pixels."""

_REJECTIONS = {
    "too_many_bytes": Problem.IMAGE_TOO_LARGE,
    "too_many_pixels": Problem.IMAGE_TOO_MANY_PIXELS,
    "too_small": Problem.IMAGE_TOO_SMALL,
}
"""Reasons of `sonoray.images.decode` that have an error of their own; others share one."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Picture:
    """One picture of the study."""

    pixels: Pixels
    part: int
    """Which of the request's images, or of the study's objects, it comes from, from 0."""
    frame: int = 0
    """Position in that image's loop; 0 of a still."""
    is_transparent: bool = False
    instance: str = field(default="", repr=False)
    """SOP Instance UID, where it comes from a study of the DICOMweb server."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StudyImages:
    """The pictures of a study."""

    pictures: Sequence[Picture]
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Objects of a stored study that gave none, by reason."""


class StudyPictures:
    """Decodes the images of requests; safe between threads."""

    def __init__(self, limits: Limits, reading: DicomReading | None = None) -> None:
        """Start nothing yet.

        Args:
            limits: the service's.
            reading: how DICOM objects become pictures.
        """
        self.limits = limits
        self.reading = reading or DicomReading()
        self._pool: GuardedPool | None = None
        self._lock = Lock()

    def decode(self, images: Sequence[bytes], max_images: int) -> list[Picture]:
        """Decode the images of a study.

        Args:
            images: encoded, in the order of the request.
            max_images: most pictures of a study.

        Raises:
            ApiError: 400, with the image's position in the study.
        """
        pictures: list[Picture] = []
        left = self.limits.max_study_pixels
        for part, data in enumerate(images):
            new = self._read(part, data, left)
            left -= sum(each.pixels.shape[0] * each.pixels.shape[1] for each in new)
            if left < 0:
                raise ApiError(
                    Problem.IMAGE_TOO_MANY_PIXELS, f"images[{part}]", self.limits.max_study_pixels
                )
            pictures += new
            if len(pictures) > max_images:
                raise ApiError(Problem.TOO_MANY_IMAGES, f"images[{part}]", max_images)
        return pictures

    def _read(self, part: int, data: bytes, left: int) -> list[Picture]:
        limits = self.limits
        max_pixels = max(min(limits.max_image_pixels, left), 1)
        is_object = is_dicom(data)
        max_bytes = limits.max_object_bytes if is_object else limits.max_image_bytes
        accepted = ImageLimits(max_bytes=max_bytes, max_pixels=max_pixels, formats=STILLS)
        try:
            if is_object:
                frames = self.pool.submit(read_dicom, data, self.reading, accepted).result()
                return [Picture(pixels=pixels, part=part, frame=index) for index, pixels in frames]
            check_webp(data, accepted)
            still = decode_picture(data, accepted)
        except RejectedImageError as error:
            fallback = Problem.DICOM_NOT_ACCEPTED if is_object else Problem.IMAGE_NOT_ACCEPTED
            problem = _REJECTIONS.get(error.reason, fallback)
            cap = {
                Problem.IMAGE_TOO_LARGE: max_bytes,
                Problem.IMAGE_TOO_MANY_PIXELS: max_pixels,
            }.get(problem)
            # the reason is one of our own words, never the object's
            raise ApiError(problem, f"images[{part}]", cap, error.reason) from None
        return [Picture(pixels=still.pixels, part=part, is_transparent=still.is_transparent)]

    @property
    def pool(self) -> GuardedPool:
        """Where DICOM objects are decoded."""
        with self._lock:
            if self._pool is None:
                limits = self.reading.dicom.limits
                self._pool = GuardedPool(
                    workers=1,
                    memory_bytes=limits.worker_memory_bytes,
                    timeout_s=min(limits.worker_timeout_s, self.limits.deadline_s),
                )
                atexit.register(self._pool.__exit__, None, None, None)
            return self._pool


def thumbnail(pixels: Pixels) -> str:
    """A picture as a small JPEG in a `data:` URL, for who wants to see what the model was shown."""
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
