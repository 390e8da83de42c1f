"""A study with segmentations: masks of its images, nothing drawn among them, nothing lost."""

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from sonoray.ingest.dicom.dicom_config import DicomConfig
from sonoray.ingest.sources.dicom_archive import DicomSource

OUTLINE = np.zeros((40, 48), np.uint8)
OUTLINE[10:20, 15:30] = 1


@pytest.fixture
def study(tmp_path, make_object, make_picture, make_segmentation):
    """Write objects of one study and read it."""

    def write(segmentations, *, config=None, **attributes):
        loop = np.stack([make_picture(seed) for seed in range(20)])
        still = make_object(make_picture(99)[None], SOPInstanceUID="1.9", InstanceNumber=2)
        data = make_object(loop, SOPInstanceUID="1.1", InstanceNumber=1, **attributes)
        (tmp_path / "loop.dcm").write_bytes(data)
        (tmp_path / "still.dcm").write_bytes(still)
        for number, given in enumerate(segmentations):
            outlines = [OUTLINE] * len(given["places"])
            content = make_segmentation(outlines, InstanceNumber=9, **given)
            (tmp_path / f"seg{number}.dcm").write_bytes(content)
        (found,) = DicomSource(tmp_path, config or DicomConfig()).iter_studies()
        return found

    return write


def reasons(study):
    return {remark.partition(":")[0]: count for remark, count in study.remarks.items()}


def test_the_outlined_images_have_masks_and_the_segmentation_is_no_image(study):
    # of 20 frames these are taken: 1, 3, 6, 8, 11, 13, 16, 18, from 0
    found = study([{"places": [("1.1", 4), ("1.1", 5), ("1.9", None)]}])
    assert len(found.images) == 8 + 1
    assert not [image for image in found.images if image.problem]
    assert [image.frame_index for image in found.images if image.mask is not None] == [3, 0]
    np.testing.assert_array_equal(found.images[1].mask, 255 * OUTLINE)
    assert reasons(found) == {"segmentations": 1, "masks": 2, "outlines_left_out": 1}


def test_a_mask_is_cut_as_its_image_is(study):
    region = Dataset()
    region.RegionSpatialFormat = region.RegionDataType = 1
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 8, 4
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 39, 35
    attributes = {"SequenceOfUltrasoundRegions": Sequence([region])}
    found = study([{"places": [("1.1", 4)]}], **attributes)
    image = found.images[1]
    assert image.data.shape == image.mask.shape == (32, 32)
    np.testing.assert_array_equal(image.mask, 255 * OUTLINE[4:36, 8:40])


def test_several_segmentations_of_an_image_are_joined(study, make_segmentation):
    found = study([{"places": [("1.9", 1)]}, {"places": [("1.9", 1)], "shift": 8}])
    mask = found.images[-1].mask
    assert (mask == 255).sum() == OUTLINE.sum() * 2 - OUTLINE[10:20, 15:22].sum()
    assert reasons(found) == {"segmentations": 2, "masks": 1}


def test_a_segmentation_without_an_image_is_quarantined(study):
    found = study([{"places": [("7.7", 1)]}])
    assert not [image for image in found.images if image.mask is not None]
    (lost,) = [image for image in found.images if image.problem]
    assert (lost.ref, lost.problem.partition(":")[0]) == ("seg0.dcm", "mask_without_image")
    assert reasons(found) == {}


def test_a_segmentation_of_another_geometry_is_quarantined(study):
    found = study([{"places": [("1.9", 1)], "rows": 20}])
    (lost,) = [image for image in found.images if image.problem]
    assert lost.problem.startswith("bad_mask: the segmentation has (20, 48) rows and columns")
