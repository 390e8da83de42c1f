"""One DICOM object, from its bytes to labels and frames; what runs in the guarded processes.

What is no picture that is wanted (`kinds`) is refused by its header alone. A segmentation is not
decoded here: `sonoray.ingest.outlines` reads it when the pictures that it outlines are there.

A frame goes through: choice of frames -> decoding to 8 bits -> cut to the scan area. Text that is
burned into the scan area itself is still there after that; `sonoray.privacy.deidentify` looks for
it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import BinaryIO, Protocol

import numpy as np
from pydicom.dataset import Dataset

from sonoray.images.decode import ImageLimits, Pixels, RejectedImageError, check_pixels
from sonoray.images.frames import Loop, choose_by_change, shrink, spread_in_time
from sonoray.images.video import BARE_FORMATS, FORMATS, VideoConfig, read_video
from sonoray.ingest.dicom.closed_labels import read_labels
from sonoray.ingest.dicom.dicom_config import DicomConfig, FrameConfig
from sonoray.ingest.dicom.frame_times import describe_times, find_shown, find_starts
from sonoray.ingest.dicom.functional_groups import attributes_of_frame, find_pictures
from sonoray.ingest.dicom.header import (
    NUMBERS,
    PERSONS,
    PLACES,
    Header,
    find_charset_problem,
    read_header,
    read_text,
    read_texts,
)
from sonoray.ingest.dicom.kinds import Kind, class_name, describe_other, find_kind, modality_label
from sonoray.ingest.dicom.pixel_format import VIDEOS, PixelFormat, read_pixel_format
from sonoray.ingest.dicom.pixels import FrameReader, Remark, iter_fragments
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
    kind: Kind
    instance_uid: str = field(repr=False)
    """SOP Instance UID, by which a segmentation names what it outlines."""
    num_frames: int
    """As it announces; 1 where it announces none."""
    labels: Mapping[str, str]
    image_labels: Mapping[str, str]
    """Labels of each of its images: `modality` and `sop_class`."""
    problem: str
    """`reason: detail` where its pixels cannot be used; empty where they seem usable."""
    remarks: tuple[str, ...] = ()
    """`reason: detail` of what was decided about it without refusing it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """One chosen frame of an object."""

    index: int
    pixels: Pixels
    labels: Mapping[str, str]
    """The physical size of a pixel, and doubts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodedObject:
    """What becomes of an object's pixels."""

    frames: tuple[Frame, ...]
    shape: tuple[int, int]
    """Rows and columns before the cut."""
    area: ScanArea | None
    """What the frames were cut to, if they were."""
    remarks: Mapping[str, int] = field(default_factory=dict)
    """`reason: detail` of what was decided about its pixels, and how often."""

    @property
    def is_cropped(self) -> bool:
        """Whether a cut to the scan area took anything away in which text could stand."""
        return self.area is not None and self.area.leaves_out_text(*self.shape)


def describe_object(entry: Entry, config: DicomConfig, limits: ImageLimits) -> ObjectInfo:
    """Read the header of an object.

    Raises:
        RejectedImageError: it is no DICOM object that can be read.
    """
    with entry.open() as file:
        header = read_header(file, identifying=True)
    data = header.dataset
    if config.declared_charset:
        data.SpecificCharacterSet = config.declared_charset
    modality = read_text(data, "Modality", config.charset)
    kind = find_kind(header.sop_class, modality, config.modalities)
    charset_problem = find_charset_problem(data, config.charset)
    return ObjectInfo(
        study_uid=read_text(data, "StudyInstanceUID", config.charset),
        patient_id=read_text(data, "PatientID", config.charset),
        accession=read_text(data, "AccessionNumber", config.charset),
        study_date=read_text(data, "StudyDate", config.charset),
        identifiers=_identifiers(data, config.charset),
        order=(_number(data, "SeriesNumber"), _number(data, "InstanceNumber")),
        kind=kind,
        instance_uid=read_text(data, "SOPInstanceUID", config.charset),
        num_frames=max(_number(data, "NumberOfFrames"), 1),
        labels=read_labels(header, config.charset),
        image_labels=_image_labels(header, modality),
        problem=_find_problem(header, kind, modality, config, limits),
        remarks=(charset_problem,) if charset_problem else (),
    )


def _image_labels(header: Header, modality: str) -> dict[str, str]:
    labels = {
        "modality": modality_label(header.sop_class, modality),
        "sop_class": class_name(header.sop_class) if header.sop_class else "",
    }
    return {name: value for name, value in labels.items() if value}


def _find_problem(
    header: Header, kind: Kind, modality: str, config: DicomConfig, limits: ImageLimits
) -> str:
    """Why an object's pixels cannot be used, as far as its header tells; empty where they may."""
    if kind is Kind.SEGMENTATION:
        return ""
    if kind is Kind.OTHER and header.pixel_offset is not None:
        return describe_other(header.sop_class, modality)
    try:
        pixels = read_pixel_format(header, limits, config.limits, config.frames)
        _find_scan(header, pixels, config)
    except RejectedImageError as error:
        return str(error)
    return ""


def decode_object(entry: Entry, config: DicomConfig, limits: ImageLimits) -> DecodedObject:
    """Decode the chosen frames of an object, cut to the scan area.

    Raises:
        RejectedImageError: a frame that was chosen cannot be used; then none is.
    """
    with entry.open() as file:
        header = read_header(file, per_frame=True)
        data = header.dataset
        pixels = read_pixel_format(header, limits, config.limits, config.frames)
        regions, area = _find_scan(header, pixels, config)
        played = find_shown(data, pixels.frames)
        if header.syntax in VIDEOS:
            trim = None if played == range(pixels.frames) else played
            loop = _read_stream(file, header, config, limits, trim)
            found = {each.index: each.pixels for each in loop.frames}
            remarks = Counter(f"video: {note}" for note in loop.notes)
        else:
            pictures = find_pictures(data, pixels.frames)
            starts = find_starts(data, pixels.frames)
            reader = FrameReader(file, header, pixels)
            indices = [index for index in pictures if index in played] or pictures
            chosen = choose_frames(reader, indices, starts, config.frames)
            found = {index: reader.read(index) for index in chosen}
            remarks = Counter(map(str, reader.remarks))
            remarks[Remark.VALUES_LEFT_OUT.value] = pixels.frames - len(pictures)
    remarks.update(describe_times(data, pixels.frames))
    doubts = {"colours": "doubtful"} if Remark.CHROMA_AT_REST in remarks else {}
    frames = []
    for index, picture in found.items():
        across, down = _stretched(picture, pixels)
        shown = picture if area is None else area.scaled(across, down).cut(picture)
        spacing = read_spacing(attributes_of_frame(data, index), regions, stretched=(across, down))
        frames.append(
            Frame(index=index, pixels=check_pixels(shown, limits), labels=spacing | doubts)
        )
    return DecodedObject(
        frames=tuple(frames),
        shape=(pixels.rows, pixels.columns),
        area=area,
        remarks=+remarks,
    )


def _read_stream(
    file: BinaryIO, header: Header, config: DicomConfig, limits: ImageLimits, trim: range | None
) -> Loop:
    """Decode the chosen frames of a video, which its fragments hold as one stream."""
    settings = VideoConfig(
        sampling=config.frames.sampling,
        max_frames=config.frames.max_frames,
        max_bytes=config.limits.max_object_bytes,
        max_pixels=limits.max_pixels,
        max_length=config.limits.max_frames,
        max_duration_s=float(config.limits.max_frames),
    )
    return read_video(
        b"".join(iter_fragments(file, header)),
        settings,
        formats=(*FORMATS, *BARE_FORMATS),
        trim=trim,
    )


def _stretched(picture: Pixels, pixels: PixelFormat) -> tuple[float, float]:
    """By how much a picture is wider and higher than announced; pixels of a video become square.

    Raises:
        RejectedImageError: it is of another geometry.
    """
    rows, columns = picture.shape[:2]
    if rows != pixels.rows and columns != pixels.columns:
        raise RejectedImageError(
            f"contradiction: the video is {columns} x {rows}, the attributes say {pixels.columns} "
            f"x {pixels.rows}"
        )
    return columns / pixels.columns, rows / pixels.rows


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
) -> tuple[list[Dataset], ScanArea | None]:
    """The regions of the scan, and where to cut, if at all."""
    data = header.dataset
    regions = find_regions(data, rows=pixels.rows, columns=pixels.columns)
    area = None
    if regions and config.crop != "none":
        area = enclose(regions, rows=pixels.rows, columns=pixels.columns)
        if area.leaves_out_text(pixels.rows, pixels.columns):
            return regions, area
    if config.crop == "required" and area is None:
        raise RejectedImageError(
            "no_scan_area: no ultrasound region fits the picture; set dicom.crop=where_known to "
            "keep such pictures whole"
        )
    if config.burned_in == "quarantine" and str(data.get("BurnedInAnnotation", "")) == "YES":
        raise RejectedImageError(
            "burned_in_annotation: the object says that identifying text is burned in, and no cut "
            "to a scan area removes it; clean it, or set dicom.burned_in=keep"
        )
    return regions, area


def _identifiers(data: Dataset, charset: str) -> Identifiers:
    def values(keywords: Sequence[str]) -> tuple[str, ...]:
        texts = chain(*(read_texts(data, keyword, charset) for keyword in keywords))
        return tuple(dict.fromkeys(filter(None, chain(*(text.split("\\") for text in texts)))))

    return Identifiers(names=values(PERSONS), numbers=values(NUMBERS), places=values(PLACES))


def _number(data: Dataset, keyword: str) -> int:
    try:
        return int(data[keyword].value)
    except (KeyError, TypeError, ValueError):
        return -1
