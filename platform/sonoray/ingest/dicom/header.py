"""Reading a DICOM header safely: listed attributes alone, and nothing unpacked on the way.

pydicom parses; this module decides what it sees. Attributes that are not in `TAGS` are skipped
unread, private ones always. Names and what else identifies (`IDENTIFYING`) are read where the
study's texts and labels have to be searched for them, and for nothing else. The deflated transfer
syntax is refused, because it would be unpacked without a limit before the first attribute is known.

Source: DICOM PS3.10 section 7 (file format), PS3.5 section 7 (data elements).
"""

import os
import struct
from dataclasses import dataclass
from typing import BinaryIO

from pydicom import config as pydicom_config
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset, read_preamble
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSTransferSyntaxes,
    MPEGTransferSyntaxes,
    RLELossless,
)

from sonoray.files.dicom_charsets import (
    Charsets,
    all_readings,
    best_reading,
    describe_charsets,
    to_charsets,
)
from sonoray.images.decode import RejectedImageError

SYNTAXES: tuple[UID, ...] = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    RLELossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    *JPEGLSTransferSyntaxes,
    JPEG2000Lossless,
    JPEG2000,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    HTJ2K,
    *MPEGTransferSyntaxes,
)
"""Transfer syntaxes that are read."""
_COMPRESSED = ("1.2.840.10008.1.2.4.", "1.2.840.10008.1.2.8.", "1.2.840.10008.1.2.1.98")
"""What begins the other ones whose headers are Explicit VR Little Endian (PS3.5 annex A.4)."""
_NAMES = {
    "1.2.840.10008.1.2.4.110": "JPEG XL Lossless",
    "1.2.840.10008.1.2.4.111": "JPEG XL JPEG Recompression",
    "1.2.840.10008.1.2.4.112": "JPEG XL",
    "1.2.840.10008.1.2.8.1": "Deflated Image Frame Compression",
}
"""Of those that pydicom 3.0 does not know."""

KEYWORDS = (
    # identity: to ingest, which hashes it, and to the table of reports
    "StudyInstanceUID",
    "PatientID",
    "AccessionNumber",
    # to ingest, which finds by it what a segmentation outlines
    "SOPInstanceUID",
    # to ingest, which moves it or forgets it
    "StudyDate",
    # order and kind
    "SOPClassUID",
    "SeriesNumber",
    "InstanceNumber",
    "BurnedInAnnotation",
    # labels
    "SpecificCharacterSet",
    "Modality",
    "BodyPartExamined",
    "StudyDescription",
    "Manufacturer",
    "ManufacturerModelName",
    "PatientSex",
    "PatientAge",
    # pixels
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "FrameTimeVector",
    "StartTrim",
    "StopTrim",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelSpacing",
    "PixelAspectRatio",
    "PixelPresentation",
    "SequenceOfUltrasoundRegions",
    "ModalityLUTSequence",
    "RescaleIntercept",
    "RescaleSlope",
    "VOILUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedBluePaletteColorLookupTableData",
    "DataFrameAssignmentSequence",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
)
"""Every attribute that is read of all objects."""

PER_FRAME = (
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "SegmentationType",
    "SegmentSequence",
    "MaximumFractionalValue",
    "PixelPaddingValue",
)
"""What is read besides where pixels are decoded: it may be long."""

PERSONS = (
    "PatientName",
    "OtherPatientNames",
    "PatientBirthName",
    "PatientMotherBirthName",
    "ResponsiblePerson",
    "ReferringPhysicianName",
    "ConsultingPhysicianName",
    "PhysiciansOfRecord",
    "PerformingPhysicianName",
    "NameOfPhysiciansReadingStudy",
    "RequestingPhysician",
    "OperatorsName",
)
"""Attributes that name persons."""
NUMBERS = (
    "PatientID",
    "OtherPatientIDs",
    "AccessionNumber",
    "StudyID",
    "AdmissionID",
    "PatientAddress",
    "PatientTelephoneNumbers",
)
"""Attributes that hold what else is a person's own."""
PLACES = ("InstitutionName", "InstitutionAddress")
"""Attributes that name institutions."""
IDENTIFYING = (*PERSONS, *NUMBERS, *PLACES)
"""What a study's texts and labels are searched for."""
_TEXTS = ("StudyDescription", "BodyPartExamined", "Manufacturer", "ManufacturerModelName")
"""Other attributes whose texts may be in the hospital's language."""


def _tag(keyword: str) -> int:
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    return tag


TAGS = [_tag(keyword) for keyword in KEYWORDS]
"""`KEYWORDS` as tags."""
_IDENTIFYING_TAGS = [_tag(keyword) for keyword in IDENTIFYING]
_PER_FRAME_TAGS = [_tag(keyword) for keyword in PER_FRAME]

_PIXEL_DATA = _tag("PixelData")
_STOP = (_tag("FloatPixelData"), _tag("DoubleFloatPixelData"), _PIXEL_DATA)
_UNDEFINED = 0xFFFFFFFF


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """What stands before the pixels of one object."""

    dataset: Dataset
    """The attributes of `KEYWORDS` that the object has."""
    syntax: UID
    sop_class: UID
    pixel_offset: int | None
    """Where the value of the pixel data begins in the file; None where there is none."""
    pixel_length: int
    """Bytes of that value that the file really has; 0xFFFFFFFF for encapsulated pixels."""
    pixel_vr: str
    """Value representation of the pixel data, `OB` or `OW`."""

    @property
    def is_encapsulated(self) -> bool:
        """Whether the pixel data is a sequence of fragments."""
        return self.pixel_length == _UNDEFINED

    def check_syntax(self) -> None:
        """Refuse an object whose header is read, and its pixels are not.

        Raises:
            RejectedImageError: `unsupported_syntax`.
        """
        if self.syntax not in SYNTAXES:
            raise _unsupported(self.syntax)


def read_header(file: BinaryIO, *, identifying: bool = False, per_frame: bool = False) -> Header:
    """Read the header of an object; the pixels stay where they are.

    Args:
        file: the object from its beginning, seekable.
        identifying: whether the attributes of `IDENTIFYING` are read too.
        per_frame: whether the attributes of `PER_FRAME` are read too.

    Raises:
        RejectedImageError: it is no DICOM file, or one that is not read.
        Exception: what pydicom raises on damaged headers; `sonoray.images.sandbox` describes it.
    """
    # what a value may look like is not our question, and complaints would quote it
    pydicom_config.settings.reading_validation_mode = pydicom_config.IGNORE
    if file.read(132)[128:] != b"DICM":
        raise RejectedImageError("not_dicom: there is no DICM after 128 bytes")
    file.seek(0)
    read_preamble(file, force=False)
    meta = read_dataset(
        file,
        is_implicit_VR=False,
        is_little_endian=True,
        stop_when=lambda tag, _vr, _length: tag.group != 2,
    )
    sop_class = UID(str(meta.get("MediaStorageSOPClassUID", "")))
    if "DICOMDIR" in sop_class.name or "Media Storage Directory" in sop_class.name:
        raise RejectedImageError(f"not_an_image: {sop_class.name}")
    syntax = UID(str(meta.get("TransferSyntaxUID", "")))
    if syntax not in SYNTAXES and not syntax.startswith(_COMPRESSED):
        raise _unsupported(syntax)
    is_implicit = syntax == ImplicitVRLittleEndian
    is_little = syntax != ExplicitVRBigEndian
    wanted = [*TAGS]
    wanted += _IDENTIFYING_TAGS if identifying else []
    wanted += _PER_FRAME_TAGS if per_frame else []
    dataset = read_dataset(
        file,
        is_implicit_VR=is_implicit,
        is_little_endian=is_little,
        stop_when=lambda tag, _vr, _length: tag in _STOP,
        specific_tags=wanted,
    )
    dataset.set_original_encoding(is_implicit, is_little)
    if dataset.get("SOPClassUID"):
        sop_class = UID(str(dataset.SOPClassUID))
    if not is_little:
        _swap_palette(dataset)
    offset, length, vr = _read_pixel_element(file, is_implicit=is_implicit, is_little=is_little)
    if offset is not None and length != _UNDEFINED:
        length = min(length, file.seek(0, os.SEEK_END) - offset)
    return Header(
        dataset=dataset,
        syntax=syntax,
        sop_class=sop_class,
        pixel_offset=offset,
        pixel_length=length,
        pixel_vr=vr,
    )


def find_syntax(head: bytes) -> UID:
    """Transfer syntax that the first bytes of a file name; empty where they name none.

    Nothing else of them is looked at, so that it may be asked outside of the guarded processes.
    """
    position = 132 if head[128:132] == b"DICM" else len(head)
    while position + 12 <= len(head):
        group, element, vr, length = struct.unpack_from("<HH2sH", head, position)
        start = position + 8
        if vr in (b"OB", b"UN", b"UT", b"SQ", b"OW"):  # two reserved bytes, then the length
            (length,) = struct.unpack_from("<L", head, start)
            start += 4
        if group != 2:
            break
        if element == 0x10:
            return UID(head[start : start + length].decode("ascii", "replace").strip("\0 "))
        position = start + length
    return UID("")


def read_text(dataset: Dataset, keyword: str, charset: str) -> str:
    """Return a text attribute as it most likely is; empty where it is absent.

    Decoded here and not by pydicom, which takes code strings as Latin-1, although Chinese machines
    write Chinese into them, and replaces what the declared character set does not have.

    Args:
        dataset: a header's.
        keyword: which attribute.
        charset: Python's name of the set of undeclared texts that are no UTF-8.
    """
    value = _raw_text(dataset, keyword)
    if isinstance(value, str):
        return value
    return best_reading(value, _charsets(dataset, charset), _delimiters(keyword)).text


def read_texts(dataset: Dataset, keyword: str, charset: str) -> tuple[str, ...]:
    """Return every text that an attribute's bytes can mean; see `read_text`."""
    value = _raw_text(dataset, keyword)
    if isinstance(value, str):
        return (value,) if value else ()
    return all_readings(value, _charsets(dataset, charset), _delimiters(keyword))


def find_charset_problem(dataset: Dataset, charset: str) -> str:
    """`reason: detail` where texts are not in the character set that they declare; else empty."""
    charsets = _charsets(dataset, charset)
    values = ((keyword, _raw_text(dataset, keyword)) for keyword in (*IDENTIFYING, *_TEXTS))
    readings = [
        best_reading(value, charsets, _delimiters(keyword))
        for keyword, value in values
        if isinstance(value, bytes)
    ]
    return describe_charsets(readings, charsets)


def _raw_text(dataset: Dataset, keyword: str) -> bytes | str:
    """The bytes of a text attribute, or its text where it has no bytes."""
    element = dataset.get_item(keyword)
    value = None if element is None else element.value
    if isinstance(value, bytes) and not isinstance(element, DataElement):
        return value
    return "" if value is None else str(value).strip("\0 ")


def _charsets(dataset: Dataset, charset: str) -> Charsets:
    return to_charsets(dataset.get("SpecificCharacterSet"), charset)


def _delimiters(keyword: str) -> set[int]:
    """After which the first character set is back: in names also `^` and `=` (PS3.5 6.2.1)."""
    return {0x5C, 0x5E, 0x3D} if keyword in PERSONS else {0x5C}


def _swap_palette(dataset: Dataset) -> None:
    """Bring a big endian palette, which is made of words, to the order that pydicom expects."""
    for colour in ("Red", "Green", "Blue"):
        keyword = f"{colour}PaletteColorLookupTableData"
        table = dataset.get(keyword)
        if isinstance(table, bytes) and len(table) % 2 == 0:
            swapped = bytearray(table)
            swapped[::2], swapped[1::2] = table[1::2], table[::2]
            setattr(dataset, keyword, bytes(swapped))


def _unsupported(syntax: UID) -> RejectedImageError:
    name = _NAMES.get(syntax) or syntax.name or "none is named"
    return RejectedImageError(
        f"unsupported_syntax: {name}; export the object as Explicit VR Little Endian"
    )


def _read_pixel_element(
    file: BinaryIO, *, is_implicit: bool, is_little: bool
) -> tuple[int | None, int, str]:
    """Read tag, representation and length of the element that `read_dataset` stopped at."""
    endian = "<" if is_little else ">"
    head = file.read(8)
    if len(head) < 8:
        return None, 0, ""
    group, element = struct.unpack(f"{endian}HH", head[:4])
    if (group << 16 | element) != _PIXEL_DATA:
        return None, 0, ""
    if is_implicit:
        (length,) = struct.unpack(f"{endian}L", head[4:])
        return file.tell(), length, "OW"
    (length,) = struct.unpack(f"{endian}L", file.read(4))
    return file.tell(), length, head[4:6].decode("ascii")
