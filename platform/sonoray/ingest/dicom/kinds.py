"""What an object is: a picture that is read, a segmentation, or neither, by SOP class and modality.

A study is no unit of this: one examination may hold ultrasound, mammograms, a CT slice and outlines
that somebody drew. Ultrasound is what an ultrasound class says, whatever stands in Modality, and a
secondary capture of Modality US. Another modality is read where `dicom.modalities` names it. A
segmentation is never a picture: it is the truth about one, and would leak into the input.

The same rule decides what is fetched from a server (`sonoray.ingest.dicomweb`), as far as a server
tells class and modality before an object is there.

Source: DICOM PS3.4 annex B.5 (Standard SOP Classes), PS3.3 section C.7.3.1.1.1 (Modality).
"""

import re
from collections.abc import Sequence
from enum import StrEnum

from pydicom.uid import (
    UID,
    EnhancedUSVolumeStorage,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    MultiFrameSingleBitSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    ParametricMapStorage,
    RTDoseStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
)

ULTRASOUND = "US"
"""Modality of what ultrasound classes hold."""
ULTRASOUND_CLASSES = (
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
    UID("1.2.840.10008.5.1.4.1.1.6"),  # retired
    UID("1.2.840.10008.5.1.4.1.1.3"),  # retired
    EnhancedUSVolumeStorage,
)
SECONDARY_CAPTURES = (
    SecondaryCaptureImageStorage,
    MultiFrameSingleBitSecondaryCaptureImageStorage,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
)
LABEL_MAP = UID("1.2.840.10008.5.1.4.1.1.66.7")
SEGMENTATIONS = (SegmentationStorage, LABEL_MAP)
_VALUES = (ParametricMapStorage, RTDoseStorage)
"""Classes of what was measured or computed, which no window makes a picture of."""
_NAMES = {LABEL_MAP: "Label Map Segmentation Storage"}
"""Of classes that pydicom 3.0 does not know."""


class Kind(StrEnum):
    """What ingest does with an object."""

    PICTURE = "picture"
    SEGMENTATION = "segmentation"
    OTHER = "other"


def find_kind(sop_class: UID, modality: str, modalities: Sequence[str]) -> Kind:
    """Tell what an object is to an ingest that reads `modalities`.

    Args:
        sop_class: SOP Class UID; empty where none is named.
        modality: Modality (0008,0060); empty where none is named.
        modalities: `dicom.modalities`.
    """
    if sop_class in SEGMENTATIONS:
        return Kind.SEGMENTATION
    if sop_class in _VALUES:
        return Kind.OTHER
    if sop_class in ULTRASOUND_CLASSES:
        return Kind.PICTURE if ULTRASOUND in modalities else Kind.OTHER
    if modality not in modalities:
        return Kind.OTHER
    is_plain = modality != ULTRASOUND or not sop_class or sop_class in SECONDARY_CAPTURES
    return Kind.PICTURE if is_plain else Kind.OTHER


def describe_other(sop_class: UID, modality: str) -> str:
    """Why an object of `Kind.OTHER` is not read, as `reason: detail`."""
    named = modality_label(sop_class, modality)
    if sop_class in _VALUES:
        return f"other_class: {class_name(sop_class)} holds values and no picture"
    is_capture = named == ULTRASOUND and (not sop_class or sop_class in SECONDARY_CAPTURES)
    if sop_class in ULTRASOUND_CLASSES or is_capture:
        return (
            f"other_modality: {class_name(sop_class)} is ultrasound; add US to dicom.modalities, "
            "which replaces the default"
        )
    if named == ULTRASOUND:
        return f"other_class: {class_name(sop_class)} of Modality US holds no ultrasound picture"
    return (
        f"other_modality: {named or 'no modality'} ({class_name(sop_class)}) is not ultrasound; "
        "add its modality to dicom.modalities if such pictures are wanted"
    )


def modality_label(sop_class: UID, modality: str) -> str:
    """The modality as a label: a code; US of an ultrasound class that names none; else empty."""
    if sop_class in ULTRASOUND_CLASSES and not modality:
        return ULTRASOUND
    return modality if re.fullmatch(r"[A-Z0-9_]{1,16}", modality) else ""


def class_name(sop_class: UID) -> str:
    """The standard's name of a class, as `CT Image Storage`; a private one has none."""
    if not sop_class:
        return "no SOP class"
    known = _NAMES.get(sop_class) or sop_class.name
    return "a class of no standard name" if known == str(sop_class) else known
