"""A DICOM object of a request as pictures: chosen, cut and cleaned as ingest does it.

The same functions as in `sonoray ingest dicom`, with the same settings: the frames that are chosen
of a loop, the cut to the scan area, and text that is burned in covered. So a model is shown what it
was trained on, and no name that a scanner drew. It runs in a guarded process
(`sonoray.images.sandbox`): the decoders are C, and the bytes are a stranger's.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from sonoray.images.decode import ImageLimits, Pixels, RejectedImageError
from sonoray.study.identifiers import NOBODY, Identifiers
from sonoray_serve.settings import DicomReading

if TYPE_CHECKING:
    from sonoray.ingest.dicom.objects import ObjectInfo

_PREAMBLE = 128
_MAGIC = b"DICM"


def is_dicom(data: bytes) -> bool:
    """Whether bytes are a DICOM file (PS3.10 section 7.1)."""
    return data[_PREAMBLE : _PREAMBLE + len(_MAGIC)] == _MAGIC


def describe_dicom(data: bytes, reading: DicomReading, limits: ImageLimits) -> "ObjectInfo":
    """What an object says before its pixels are read; a segmentation is no picture.

    Args:
        data: the file.
        reading: how objects become pictures.
        limits: of one picture.

    Raises:
        RejectedImageError: it is no DICOM object that can be read.
    """
    from sonoray.ingest.dicom.containers import BytesEntry
    from sonoray.ingest.dicom.kinds import Kind
    from sonoray.ingest.dicom.objects import describe_object

    entry = BytesEntry(ref="object", data=data, max_bytes=limits.max_bytes)
    info = describe_object(entry, reading.dicom, limits)
    if info.kind is Kind.SEGMENTATION:
        return replace(info, problem="not_an_image: a segmentation outlines pictures and is none")
    return info


def read_dicom(
    data: bytes, reading: DicomReading, limits: ImageLimits, known: Identifiers = NOBODY
) -> Sequence[tuple[int, Pixels]]:
    """The pictures of an object, each with its position in the loop.

    Args:
        data: the file.
        reading: how objects become pictures.
        limits: of one picture.
        known: whose words are looked for in pictures, beside those that the object itself names.

    Raises:
        RejectedImageError: it is no picture of a modality that is read, or cannot be decoded.
    """
    from sonoray.ingest.dicom.containers import BytesEntry
    from sonoray.ingest.dicom.objects import decode_object
    from sonoray.privacy.deidentify import clean_picture

    info = describe_dicom(data, reading, limits)
    if info.problem:
        raise RejectedImageError(info.problem)
    entry = BytesEntry(ref="object", data=data, max_bytes=limits.max_bytes)
    decoded = decode_object(entry, reading.dicom, limits)
    return [
        (
            frame.index,
            clean_picture(
                frame.pixels,
                reading.deidentify,
                known=known.joined(info.identifiers),
                is_cut=decoded.is_cropped,
            )[0],
        )
        for frame in decoded.frames
    ]
