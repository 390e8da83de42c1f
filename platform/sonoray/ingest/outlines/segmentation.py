"""One segmentation object: which frames of which pictures it outlines, and the masks of some.

A segmentation has a frame for each segment of each picture, and names the picture in the frame's
functional groups. Three types are read: BINARY (a bit a pixel), FRACTIONAL (inside from half of the
greatest value on) and LABELMAP (the value is the segment's number). Segments of one picture are
joined. Where some segments are anatomy, as the organ, and others are not, as the lesion, the
anatomy is left out: a mask is what is found in a picture.

It runs in the guarded processes, as all that decodes strangers' bytes.

Source: DICOM PS3.3 section C.8.20 (Segmentation), C.7.6.16.2.6 (Derivation Image).
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from sonoray.images.decode import ImageLimits, Pixels, RejectedImageError
from sonoray.ingest.dicom.dicom_config import DicomConfig
from sonoray.ingest.dicom.functional_groups import find_group
from sonoray.ingest.dicom.header import Header, read_header
from sonoray.ingest.dicom.objects import Entry
from sonoray.ingest.dicom.pixel_format import PixelFormat, read_pixel_format
from sonoray.ingest.dicom.pixels import FrameReader

Place = tuple[str, int]
"""A frame of a picture: SOP Instance UID, and position from 0."""

_ANATOMY = frozenset({"123037004", "85756007", "91723000", "T-D000A", "T-D0050"})
"""Codes of Segmented Property Category that mean anatomy: SNOMED CT, and its older form."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Outlines:
    """What a segmentation says of the pictures that were asked for."""

    masks: Mapping[Place, Pixels]
    """By frame, those that were asked for: uint8 `(H, W)`, 0 outside and 255 inside."""
    num_outlined: int
    """Frames of pictures that it outlines, asked for or not."""
    num_unclear: int
    """Frames of its own that do not say which picture they outline."""


def read_outlines(
    entry: Entry, wanted: Collection[Place], config: DicomConfig, limits: ImageLimits
) -> Outlines:
    """Read the masks of the frames `wanted`; no other frame is decoded.

    Raises:
        RejectedImageError: it cannot be read, or is of another type.
    """
    with entry.open() as file:
        header = read_header(file, per_frame=True)
        data = header.dataset
        kind = str(data.get("SegmentationType", ""))
        depths = {"BINARY": (1,), "FRACTIONAL": (8,), "LABELMAP": (8, 16)}.get(kind)
        if depths is None:
            raise RejectedImageError(
                "unsupported_segmentation: its type is none of BINARY, FRACTIONAL, LABELMAP"
            )
        pixels = read_pixel_format(header, limits, config.limits, config.frames, depths=depths)
        if kind == "BINARY" and header.is_encapsulated:
            raise RejectedImageError(
                f"unsupported_segmentation: BINARY in {header.syntax.name}; export it as Explicit "
                "VR Little Endian"
            )
        numbers = _segments(data)
        reader = FrameReader(file, header, pixels)
        found: dict[Place, Pixels] = {}
        outlined: set[Place] = set()
        num_unclear = 0
        for index in range(pixels.frames):
            places = list(_places(data, index))
            num_unclear += not places
            if kind != "LABELMAP" and _number(data, index) not in numbers:
                continue
            outlined.update(places)
            asked = [place for place in places if place in wanted]
            if not asked:
                continue
            if kind == "BINARY":
                inside = _read_bits(file, header, pixels, index)
            elif kind == "FRACTIONAL":
                inside = reader.read_stored(index) * 2 >= _greatest(data)
            else:
                inside = np.isin(reader.read_stored(index), list(numbers))
            mask = np.where(inside, 255, 0).astype(np.uint8)
            for place in asked:
                found[place] = np.maximum(found[place], mask) if place in found else mask
    return Outlines(masks=found, num_outlined=len(outlined), num_unclear=num_unclear)


def _segments(data: Dataset) -> frozenset[int]:
    """Numbers of the segments that make the mask."""
    segments = [each for each in data.get("SegmentSequence") or () if "SegmentNumber" in each]
    background = data.get("PixelPaddingValue", 0)
    numbers = {int(each.SegmentNumber): each for each in segments}
    numbers.pop(background if isinstance(background, int) else 0, None)
    others = {number for number, each in numbers.items() if not _is_anatomy(each)}
    return frozenset(others or numbers)


def _is_anatomy(segment: Dataset) -> bool:
    category = segment.get("SegmentedPropertyCategoryCodeSequence")
    return bool(category) and category[0].get("CodeValue") in _ANATOMY


def _number(data: Dataset, index: int) -> int:
    """Which segment a frame of a segmentation shows; -1 where it does not say."""
    item = find_group(data, index, "SegmentIdentificationSequence")
    number = None if item is None else item.get("ReferencedSegmentNumber")
    return number if isinstance(number, int) else -1


def _places(data: Dataset, index: int) -> Iterator[Place]:
    """The frames of pictures that a frame of a segmentation outlines."""
    derivation = find_group(data, index, "DerivationImageSequence")
    if derivation is None:
        return
    for source in derivation.get("SourceImageSequence") or ():
        uid = str(source.get("ReferencedSOPInstanceUID", ""))
        frames = source.get("ReferencedFrameNumber", 1)
        for number in frames if isinstance(frames, MultiValue) else (frames,):
            if uid and isinstance(number, int) and number > 0:
                yield uid, number - 1


def _greatest(data: Dataset) -> int:
    greatest = data.get("MaximumFractionalValue", 255)
    if not isinstance(greatest, int) or greatest < 1:
        raise RejectedImageError("contradiction: MaximumFractionalValue is no positive number")
    return greatest


def _read_bits(
    file: BinaryIO, header: Header, pixels: PixelFormat, index: int
) -> NDArray[np.bool_]:
    """Unpack one frame of bits; frames follow each other without a gap (PS3.5 section 8.1.1)."""
    size = pixels.rows * pixels.columns
    first, last = index * size, (index + 1) * size
    assert header.pixel_offset is not None
    file.seek(header.pixel_offset + first // 8)
    packed = file.read((last + 7) // 8 - first // 8)
    bits = np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little")
    frame: NDArray[Any] = bits[first % 8 :][:size]
    if len(frame) < size:
        raise RejectedImageError(f"truncated: no frame {index}; export the segmentation again")
    inside: NDArray[np.bool_] = frame.reshape(pixels.rows, pixels.columns) != 0
    return inside
