"""What is a picture that is read: by SOP class and modality of the object, never of its study."""

import pytest
from pydicom.uid import (
    UID,
    CTImageStorage,
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalXRayImageStorageForPresentation,
    EnhancedUSVolumeStorage,
    ParametricMapStorage,
    RTDoseStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
)

from sonoray.ingest.dicom.kinds import (
    LABEL_MAP,
    Kind,
    class_name,
    describe_other,
    find_kind,
    modality_label,
)

RETIRED = UID("1.2.840.10008.5.1.4.1.1.6")
PRIVATE = UID("1.3.46.670589.2.5.1.1")


@pytest.mark.parametrize(
    ("sop_class", "modality", "modalities", "kind"),
    [
        (UltrasoundImageStorage, "US", ("US",), Kind.PICTURE),
        (UltrasoundMultiFrameImageStorage, "IVUS", ("US",), Kind.PICTURE),
        (RETIRED, "", ("US",), Kind.PICTURE),
        (EnhancedUSVolumeStorage, "US", ("US",), Kind.PICTURE),
        (UltrasoundImageStorage, "US", ("DX",), Kind.OTHER),
        (SecondaryCaptureImageStorage, "US", ("US",), Kind.PICTURE),
        (SecondaryCaptureImageStorage, "OT", ("US",), Kind.OTHER),
        (SecondaryCaptureImageStorage, "OT", ("US", "OT"), Kind.PICTURE),
        (UID(""), "US", ("US",), Kind.PICTURE),
        (PRIVATE, "US", ("US",), Kind.OTHER),
        (CTImageStorage, "CT", ("US",), Kind.OTHER),
        (CTImageStorage, "US", ("US",), Kind.OTHER),
        (DigitalMammographyXRayImageStorageForPresentation, "MG", ("US",), Kind.OTHER),
        (DigitalXRayImageStorageForPresentation, "DX", ("US", "DX"), Kind.PICTURE),
        (SegmentationStorage, "SEG", ("US",), Kind.SEGMENTATION),
        (LABEL_MAP, "SEG", ("US", "SEG"), Kind.SEGMENTATION),
        (ParametricMapStorage, "US", ("US",), Kind.OTHER),
        (RTDoseStorage, "RTDOSE", ("RTDOSE",), Kind.OTHER),
    ],
)
def test_class_and_modality_tell_what_an_object_is(sop_class, modality, modalities, kind):
    assert find_kind(sop_class, modality, modalities) is kind


def test_what_is_not_read_is_named_and_the_setting_that_reads_it():
    problem = describe_other(DigitalMammographyXRayImageStorageForPresentation, "MG")
    assert problem.startswith("other_modality: MG (Digital Mammography X-Ray Image Storage")
    assert "dicom.modalities" in problem
    assert describe_other(PRIVATE, "US") == (
        "other_class: a class of no standard name of Modality US holds no ultrasound picture"
    )
    # where `dicom.modalities` lost its default
    for sop_class in (UltrasoundImageStorage, SecondaryCaptureImageStorage, UID("")):
        assert "add US to dicom.modalities" in describe_other(sop_class, "US")
    # what is no code may be a patient's text
    assert "Wang" not in describe_other(CTImageStorage, "Wang Xiao")


def test_labels_are_codes_and_names_of_the_standard():
    assert modality_label(UltrasoundImageStorage, "") == "US"
    assert modality_label(UltrasoundImageStorage, "IVUS") == "IVUS"
    assert modality_label(CTImageStorage, "Wang Xiao") == ""
    assert class_name(LABEL_MAP) == "Label Map Segmentation Storage"
    assert class_name(UID("")) == "no SOP class"
