"""One DICOM object, from its bytes to labels and frames; what runs in the guarded processes.

A frame goes through: choice of frames -> decoding to 8 bits -> cut to the scan area. Text that is
burned into the scan area itself is still there after that; `sonoray.privacy.deidentify` looks for
it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import BinaryIO, Protocol

import numpy as np
from pydicom.dataset import Dataset

from sonoray.images.decode import ImageLimits, Pixels, RejectedImageError, check_pixels
from sonoray.images.frames import choose_by_change, shrink, spread_in_time
from sonoray.ingest.dicom.closed_labels import read_labels
from sonoray.ingest.dicom.dicom_config import DicomConfig, FrameConfig
from sonoray.ingest.dicom.frame_times import find_shown, find_starts
from sonoray.ingest.dicom.header import NUMBERS, PERSONS, PLACES, Header, read_header, read_text
from sonoray.ingest.dicom.pixel_format import PixelFormat, read_pixel_format
from sonoray.ingest.dicom.pixels import FrameReader
from sonoray.ingest.dicom.regions import ScanArea, enclose, find_regions, read_spacing
from sonoray.study.identifiers import Identifiers


class Entry(Protocol):
    """One object where it lies: a file, an entry of an archive, bytes in memory. Picklable."""

    @property
    def ref(self) -> str:
        """Where it stands in its source; unique there."""
        ...

    def open(self) -> BinaryIO:
        """Open it for reading, seekable.

        Raises:
            RejectedImageError: it is too large, or not to be read.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectInfo:
    """What an object says before its pixels are read."""

    study_uid: str = field(repr=False)
    patient_id: str = field(repr=False)
    accession: str = field(repr=False)
    study_date: str = field(repr=False)
    identifiers: Identifiers
    """What its texts are searched for."""
    order: tuple[int, int]
    """Series number, instance number; -1 where there is none."""
    labels: Mapping[str, str]
    problem: str
    """`reason: detail` where its pixels cannot be used; empty where they seem usable."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """One chosen frame of an object."""

    index: int
    pixels: Pixels


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodedObject:
    """What becomes of an object's pixels."""

    frames: tuple[Frame, ...]
    labels: Mapping[str, str]
    """Labels of each of its images: the physical size of a pixel."""
    is_cropped: bool
    """Whether the frames were cut to the scan area."""


def describe_object(entry: Entry, config: DicomConfig, limits: ImageLimits) -> ObjectInfo:
    """Read the header of an object.

    Raises:
        RejectedImageError: it is no DICOM object that can be read.
    """
    with entry.open() as file:
        header = read_header(file, identifying=True)
    data = header.dataset
    try:
        pixels = read_pixel_format(header, limits, config.limits, config.frames)
        _find_scan(header, pixels, config)
        problem = ""
    except RejectedImageError as error:
        problem = str(error)
    return ObjectInfo(
        study_uid=read_text(data, "StudyInstanceUID", config.charset),
        patient_id=read_text(data, "PatientID", config.charset),
        accession=read_text(data, "AccessionNumber", config.charset),
        study_date=read_text(data, "StudyDate", config.charset),
        identifiers=_identifiers(data, config.charset),
        order=(_number(data, "SeriesNumber"), _number(data, "InstanceNumber")),
        labels=read_labels(header, config.charset),
        problem=problem,
    )


def decode_object(entry: Entry, config: DicomConfig, limits: ImageLimits) -> DecodedObject:
    """Decode the chosen frames of an object, cut to the scan area.

    Raises:
        RejectedImageError: a frame that was chosen cannot be used; then none is.
    """
    with entry.open() as file:
        header = read_header(file)
        pixels = read_pixel_format(header, limits, config.limits, config.frames)
        area, labels = _find_scan(header, pixels, config)
        reader = FrameReader(file, header, pixels)
        frames = []
        starts = find_starts(header.dataset, pixels.frames)
        for index in choose_frames(
            reader, find_shown(header.dataset, pixels.frames), starts, config.frames
        ):
            picture = reader.read(index)
            shown = picture if area is None else area.cut(picture)
            frames.append(Frame(index=index, pixels=check_pixels(shown, limits)))
    return DecodedObject(frames=tuple(frames), labels=labels, is_cropped=area is not None)


def choose_frames(
    reader: FrameReader,
    indices: Sequence[int],
    starts: Sequence[int | None],
    config: FrameConfig,
) -> tuple[int, ...]:
    """Those of `indices` that become images; only `change` decodes any, one at a time.

    Args:
        reader: of the object.
        indices: frames that are shown.
        starts: when every frame of the object is shown, as `find_starts` has it.
        config: how many are taken, and how.
    """

    def spaced(wanted: int) -> tuple[int, ...]:
        times = [starts[index] for index in indices]
        return tuple(indices[position] for position in spread_in_time(times, wanted))

    if config.sampling == "uniform" or len(indices) <= config.max_frames:
        return spaced(config.max_frames)
    probed = spaced(max(config.max_probed, config.max_frames))
    small = np.stack([shrink(reader.read(index)) for index in probed])
    return tuple(probed[position] for position in choose_by_change(small, config.max_frames))


def _find_scan(
    header: Header, pixels: PixelFormat, config: DicomConfig
) -> tuple[ScanArea | None, dict[str, str]]:
    """Where to cut, if at all, and the labels that hold the physical size of a pixel."""
    data = header.dataset
    regions = find_regions(data, rows=pixels.rows, columns=pixels.columns)
    spacing = read_spacing(data, regions)
    if regions and config.crop != "none":
        return enclose(regions, rows=pixels.rows, columns=pixels.columns), spacing
    if config.crop == "required":
        raise RejectedImageError(
            "no_scan_area: no ultrasound region fits the picture; set dicom.crop=where_known to "
            "keep such pictures whole"
        )
    if config.burned_in == "quarantine" and str(data.get("BurnedInAnnotation", "")) == "YES":
        raise RejectedImageError(
            "burned_in_annotation: the object says that identifying text is burned in, and the "
            "picture is not cut to its scan area; clean it, or set dicom.burned_in=keep"
        )
    return None, spacing


def _identifiers(data: Dataset, charset: str) -> Identifiers:
    def values(keywords: Sequence[str]) -> tuple[str, ...]:
        texts = (read_text(data, keyword, charset) for keyword in keywords)
        return tuple(dict.fromkeys(filter(None, chain(*(text.split("\\") for text in texts)))))

    return Identifiers(names=values(PERSONS), numbers=values(NUMBERS), places=values(PLACES))


def _number(data: Dataset, keyword: str) -> int:
    try:
        return int(data[keyword].value)
    except (KeyError, TypeError, ValueError):
        return -1
