import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from sonoray.ingest.dicom.regions import ScanArea, enclose, find_regions, read_spacing


def region(left, upper, right, lower, *, form=1, kind=1, delta=0.025, units=3):
    data = Dataset()
    data.RegionSpatialFormat, data.RegionDataType = form, kind
    data.RegionLocationMinX0, data.RegionLocationMinY0 = left, upper
    data.RegionLocationMaxX1, data.RegionLocationMaxY1 = right, lower
    data.PhysicalUnitsXDirection = data.PhysicalUnitsYDirection = units
    data.PhysicalDeltaX, data.PhysicalDeltaY = delta, -2 * delta
    return data


def picture_with(*regions, spacing=None):
    data = Dataset()
    data.SequenceOfUltrasoundRegions = Sequence(regions)
    if spacing:
        data.PixelSpacing = spacing
    return data


def area_of(data):
    return enclose(find_regions(data, rows=100, columns=200), rows=100, columns=200)


def test_the_area_holds_all_two_dimensional_regions_and_no_others():
    halves = region(10, 5, 80, 90), region(90, 10, 180, 95, kind=2)
    curves = region(0, 96, 199, 99, form=3, kind=3), region(0, 0, 199, 4, form=5)
    found = area_of(picture_with(*halves, *curves))
    assert found == ScanArea(left=10, upper=5, right=181, lower=96)


@pytest.mark.parametrize(
    ("corners", "inside"),
    [
        ((0, 0, 199, 99), True),
        ((0, 0, 200, 100), True),  # the first pixel outside, as some write
        ((0, 0, 201, 99), False),
        ((0, 0, 199, 101), False),
        ((50, 0, 40, 99), False),
    ],
)
def test_regions_of_another_picture_say_nothing(corners, inside):
    data = picture_with(region(*corners), spacing=[0.3, 0.2])
    found = find_regions(data, rows=100, columns=200)
    assert bool(found) is inside
    if inside:
        assert area_of(data) == ScanArea(left=0, upper=0, right=200, lower=100)
        assert read_spacing(data, found) == {"spacing_mm_x": "0.25", "spacing_mm_y": "0.5"}
    else:
        assert read_spacing(data, found) == {"spacing_mm_x": "0.2", "spacing_mm_y": "0.3"}


def test_a_spacing_is_positive_known_and_one():
    box = (0, 0, 9, 9)
    two_scales = [region(*box), region(*box, delta=0.05)]
    assert read_spacing(picture_with(spacing=[0.3, 0.2]), two_scales) == {}
    in_seconds = [region(*box, units=4)]
    assert read_spacing(picture_with(), in_seconds) == {}
    assert read_spacing(picture_with(), [region(*box, delta=0)]) == {}
    assert read_spacing(Dataset(), []) == {}


def test_deltas_that_differ_by_rounding_are_one_scale():
    box, delta = (0, 0, 9, 9), 0.0241935483870968
    halves = [region(*box, delta=delta), region(*box, delta=delta + 1e-11)]
    expected = {"spacing_mm_x": "0.241935", "spacing_mm_y": "0.483871"}
    assert read_spacing(picture_with(), halves) == expected
    assert read_spacing(picture_with(), halves[::-1]) == expected
    assert read_spacing(picture_with(), [*halves, region(*box, delta=delta * 1.001)]) == {}


@pytest.mark.parametrize(
    ("ratio", "label"),
    [
        ([4, 3], {"pixel_aspect": "0.75"}),
        ([1, 1], {}),
        ([0, 3], {}),
        (["4", "3"], {"pixel_aspect": "0.75"}),
    ],
)
def test_pixels_that_are_not_square_say_so(ratio, label):
    data = picture_with()
    data.PixelAspectRatio = ratio
    assert read_spacing(data, []) == label
    data.PixelSpacing = [0.4, 0.3]
    assert read_spacing(data, []) == {"spacing_mm_x": "0.3", "spacing_mm_y": "0.4"}


@pytest.mark.parametrize(
    ("corners", "is_cut"),
    [
        ((0, 0, 799, 599), False),
        ((0, 0, 800, 600), False),
        ((7, 7, 792, 592), False),
        ((0, 8, 799, 599), True),
        ((0, 0, 791, 599), True),
        ((60, 80, 700, 560), True),
    ],
)
def test_a_cut_that_leaves_out_no_line_of_text_is_none(corners, is_cut):
    regions = find_regions(picture_with(region(*corners)), rows=600, columns=800)
    assert enclose(regions, rows=600, columns=800).leaves_out_text(600, 800) is is_cut
