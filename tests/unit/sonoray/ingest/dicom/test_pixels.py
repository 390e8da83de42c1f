"""Every photometric interpretation in every transfer syntax, against known pictures or pydicom."""

import io

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.pixels import apply_voi_lut, convert_color_space, pixel_array
from pydicom.sequence import Sequence
from pydicom.uid import (
    JPEG2000,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from sonoray.images.decode import ImageLimits, RejectedImageError
from sonoray.ingest.dicom.containers import BytesEntry
from sonoray.ingest.dicom.dicom_config import DicomConfig
from sonoray.ingest.dicom.objects import decode_object
from sonoray.ingest.dicom.pixel_format import PHOTOMETRICS
from sonoray.ingest.dicom.pixels import Remark

EXACT = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    RLELossless,
    JPEG2000Lossless,
)
PALETTE = np.random.default_rng(0).integers(0, 256, (3, 256)).astype(np.uint8)


def decode(data, **config):
    entry = BytesEntry(ref="x", data=data, max_bytes=10**7)
    return decode_object(entry, DicomConfig.model_validate(config), ImageLimits(min_side=16))


def pixels_of(data, **config):
    return [frame.pixels for frame in decode(data, **config).frames]


def palette_attributes(bits=8):
    attributes = {}
    for name, values in zip(("Red", "Green", "Blue"), PALETTE, strict=True):
        table = values if bits == 8 else values.astype("<u2") * (257 if bits == 16 else 1)
        stem = f"{name}PaletteColorLookupTable"
        attributes[f"{stem}Descriptor"] = [256, 0, 8 if bits == 8 else 16]
        attributes[f"{stem}Data"] = table.tobytes()
    return attributes


PAIRS = [
    (syntax, photometric)
    for syntax in EXACT
    for photometric in PHOTOMETRICS[syntax]
    if photometric not in ("YBR_FULL_422", "YBR_ICT")  # see the lossy ones below
]


@pytest.mark.parametrize(("syntax", "photometric"), PAIRS, ids=lambda value: str(value)[-12:])
def test_a_known_picture_comes_out_exactly(make_object, make_picture, syntax, photometric):
    samples = 3 if photometric in ("RGB", "YBR_FULL", "YBR_RCT") else 1
    shown = np.stack([make_picture(seed, samples=samples) for seed in (0, 1)])
    attributes = {"PhotometricInterpretation": photometric}
    if photometric == "YBR_FULL":
        shown = np.stack([convert_color_space(frame, "RGB", "YBR_FULL") for frame in shown])
    stored = shown
    encode_as = photometric if photometric == "YBR_RCT" else ""
    if photometric == "YBR_FULL":
        shown = np.stack([convert_color_space(frame, "YBR_FULL", "RGB") for frame in shown])
    elif photometric == "MONOCHROME1":
        shown = 255 - stored
    elif photometric == "PALETTE COLOR":
        attributes |= palette_attributes()
        shown = PALETTE.T[stored]
        if syntax == ExplicitVRBigEndian:
            for name in ("Red", "Green", "Blue"):  # bytes within words
                key = f"{name}PaletteColorLookupTableData"
                attributes[key] = np.frombuffer(attributes[key], "<u2").astype(">u2").tobytes()
    data = make_object(stored, syntax, encode_as=encode_as, **attributes)
    np.testing.assert_array_equal(pixels_of(data), shown)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless])
def test_odd_frames_keep_their_bytes(make_object, make_picture, syntax):
    stored = np.stack([make_picture(seed, rows=17, columns=19) for seed in range(3)])
    np.testing.assert_array_equal(pixels_of(make_object(stored, syntax)), stored)


def test_planes_of_colour_are_put_together(make_object, make_picture):
    shown = make_picture(samples=3)
    planes = np.ascontiguousarray(shown.transpose(2, 0, 1)).reshape(shown.shape)
    data = make_object(planes[None], PlanarConfiguration=1)
    np.testing.assert_array_equal(pixels_of(data)[0], shown)


@pytest.mark.parametrize("bits", [16, 0], ids=["16-bit", "8-bit values announced as 16"])
def test_a_deep_palette_becomes_8_bits(make_object, make_picture, bits):
    stored = make_picture()[None]
    data = make_object(
        stored, PhotometricInterpretation="PALETTE COLOR", **palette_attributes(bits)
    )
    np.testing.assert_array_equal(pixels_of(data)[0], PALETTE.T[stored[0]])


def test_lossy_jpeg_is_luminance_and_chrominance(make_object, make_picture):
    shown = make_picture(samples=3)
    data = make_object(shown[None], JPEGBaseline8Bit, PhotometricInterpretation="YBR_FULL_422")
    assert np.abs(pixels_of(data)[0].astype(int) - shown).mean() < 6
    grey = make_picture()
    data = make_object(grey[None], JPEGBaseline8Bit)
    assert np.abs(pixels_of(data)[0].astype(int) - grey).mean() < 2


@pytest.mark.parametrize("photometric", ["YBR_ICT", "RGB"])
def test_lossy_jpeg_2000_is_close(make_object, make_picture, photometric):
    shown = make_picture(samples=3)
    data = make_object(
        shown[None], JPEG2000, encode_as=photometric, PhotometricInterpretation=photometric
    )
    assert np.abs(pixels_of(data)[0].astype(int) - shown).mean() < 2


def test_an_odd_number_of_columns_is_no_contradiction_in_jpeg(make_object, make_picture):
    shown = make_picture(columns=47, samples=3)
    data = make_object(shown[None], JPEGBaseline8Bit, PhotometricInterpretation="YBR_FULL_422")
    assert np.abs(pixels_of(data)[0].astype(int) - shown).mean() < 6
    native = make_object(shown[None], PhotometricInterpretation="YBR_FULL_422")
    with pytest.raises(RejectedImageError, match=r"contradiction: YBR_FULL_422 with 47 columns"):
        pixels_of(native)


def test_a_picture_whose_chroma_rests_under_rgb_is_marked(make_object, make_picture):
    """Uncompressed luminance and chrominance that somebody calls RGB; nothing proves it."""
    grey = np.repeat(make_picture()[..., None], 3, axis=2)
    stored = convert_color_space(grey, "RGB", "YBR_FULL")
    decoded = decode(make_object(stored[None]))
    np.testing.assert_array_equal(decoded.frames[0].pixels, stored)
    assert decoded.remarks == {Remark.CHROMA_AT_REST: 1}
    assert decoded.frames[0].labels == {"colours": "doubtful"}
    for plain in (grey, make_picture(samples=3), np.full_like(grey, 128)):
        decoded = decode(make_object(plain[None]))
        assert decoded.remarks == {}
        assert decoded.frames[0].labels == {}


REFERENCES = [
    "SC_rgb_dcmtk_+eb+cr.dcm",
    "SC_rgb_dcmtk_+eb+cy+n1.dcm",
    "SC_rgb_dcmtk_+eb+cy+np.dcm",
    "SC_rgb_dcmtk_+eb+cy+s2.dcm",
    "SC_rgb_gdcm_KY.dcm",
    "SC_rgb_jls_lossy_line.dcm",
    "SC_rgb_jls_lossy_sample.dcm",
    "SC_rgb_jpeg_gdcm.dcm",
    "SC_rgb_rle_2frame.dcm",
    "SC_ybr_full_422_uncompressed.dcm",
    "examples_ybr_color.dcm",
]
"""Objects that come with pydicom, of other encoders than its own."""


@pytest.mark.parametrize("name", REFERENCES)
def test_colours_of_other_encoders_are_those_that_pydicom_sees(name):
    path = get_testdata_file(name, download=False)
    expected = pixel_array(path, index=0)
    with open(path, "rb") as file:
        shown = pixels_of(file.read(), crop="none", frames={"max_frames": 1_000})[0]
    np.testing.assert_array_equal(shown, expected)


@pytest.mark.parametrize(
    "name",
    ["MR_small_jpeg_ls_lossless.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm"],
)
def test_a_window_is_the_one_that_pydicom_applies(name):
    path = get_testdata_file(name, download=False)
    data = dcmread(path)
    windowed = apply_voi_lut(data.pixel_array, data)
    expected = np.rint((windowed + 32768) * (255 / 65535))
    with open(path, "rb") as file:
        shown = pixels_of(file.read())[0]
    assert np.ptp(shown) > 0
    np.testing.assert_allclose(shown.astype(float), expected, atol=1)  # float32 rounding


def test_without_a_window_the_bits_stored_are_the_range(make_object):
    stored = np.linspace(0, 4095, 24 * 32).astype(np.uint16).reshape(1, 24, 32)
    expected = np.rint(stored[0] * (255 / 4095)).astype(int)
    shown = pixels_of(make_object(stored, BitsStored=12, HighBit=11))[0]
    assert np.abs(shown - expected).max() <= 1
    inverse = make_object(
        stored, BitsStored=12, HighBit=11, PhotometricInterpretation="MONOCHROME1"
    )
    np.testing.assert_array_equal(pixels_of(inverse)[0], 255 - shown)
    signed = make_object((stored.astype(int) - 2048).astype(np.int16), BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(pixels_of(signed)[0], shown)


def test_a_window_cuts_what_lies_beside_it(make_object):
    stored = np.tile(
        np.array([0, 999, 1000, 1500, 1999, 2000, 65535, 65535], np.uint16), (1, 16, 4)
    )
    shown = pixels_of(make_object(stored, WindowCenter="1500", WindowWidth="1000"))[0]
    assert set(shown[0, [0, 1, 2]]) == {0}
    assert shown[0, 3] == 128
    assert set(shown[0, [4, 5, 6]]) == {255}


def test_a_negative_slope_turns_the_brightness_around(make_object, make_picture):
    stored = make_picture()
    data = make_object(stored[None], RescaleSlope="-2", RescaleIntercept="100")
    np.testing.assert_array_equal(pixels_of(data)[0], 255 - stored)
    window = {"WindowCenter": "-155", "WindowWidth": "512"}
    windowed = make_object(stored[None], RescaleSlope="-2", RescaleIntercept="100", **window)
    assert np.abs(pixels_of(windowed)[0].astype(int) - (255 - stored)).max() <= 1


@pytest.mark.parametrize("presentation", ["COLOR", ""])
def test_a_supplemental_palette_colours_what_is_above_its_first_value(make_object, presentation):
    stored = np.tile(np.arange(256, dtype=np.uint8), (16, 1))
    attributes = palette_attributes()
    for name in ("Red", "Green", "Blue"):
        attributes[f"{name}PaletteColorLookupTableDescriptor"] = [56, 200, 8]
        attributes[f"{name}PaletteColorLookupTableData"] = attributes[
            f"{name}PaletteColorLookupTableData"
        ][:56]
    if presentation:
        attributes["PixelPresentation"] = presentation
    shown = pixels_of(make_object(stored[None], **attributes))[0]
    grey = np.rint(np.arange(200) * (255 / 199))
    np.testing.assert_array_equal(shown[3, :200], np.repeat(grey[:, None], 3, axis=1))
    np.testing.assert_array_equal(shown[3, 200:], PALETTE.T[:56])
    plain = make_object(stored[None], PixelPresentation="MONOCHROME")
    np.testing.assert_array_equal(pixels_of(plain)[0], stored)


def test_an_enhanced_palette_is_refused_by_name(make_object, make_picture):
    data = make_object(make_picture()[None], DataFrameAssignmentSequence=Sequence([Dataset()]))
    with pytest.raises(RejectedImageError, match=r"^unsupported_pixels: an Enhanced Palette"):
        pixels_of(data)


GREY = ["MR_small_jpeg_ls_lossless.dcm", "JPEG-LL.dcm", "JPGExtended.dcm"]
COLOUR = ["SC_rgb_jls_lossy_line.dcm"]


@pytest.mark.parametrize("name", GREY)
def test_one_grey_codestream_is_read_in_every_way(name):
    """JPEG-LS and lossless JPEG have no encoder here: foreign codestreams, other attributes."""
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"pydicom comes without {name}")
    data = dcmread(path)
    for keyword in ("WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept"):
        if keyword in data:
            del data[keyword]
    stored = data.pixel_array.astype(int)
    low = -(2 ** (data.BitsStored - 1)) if data.PixelRepresentation else 0
    expected = np.clip(np.rint((stored - low) * (255 / (2**data.BitsStored - 1))), 0, 255)
    grey = pixels_of(as_bytes(data))[0]
    np.testing.assert_allclose(grey.astype(int), expected, atol=1)
    assert np.ptp(grey) > 0
    data.PhotometricInterpretation = "MONOCHROME1"
    np.testing.assert_array_equal(pixels_of(as_bytes(data))[0], 255 - grey)


@pytest.mark.parametrize("name", GREY[:2])
def test_a_palette_in_a_lossless_codestream_is_applied(name):
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"pydicom comes without {name}")
    data = dcmread(path)
    stored = data.pixel_array.astype(int)
    assert 0 <= stored.min() < stored.max()
    count = int(stored.max()) + 1
    table = np.random.default_rng(0).integers(0, 65536, (3, count)).astype("<u2")
    data.PhotometricInterpretation, data.PixelRepresentation = "PALETTE COLOR", 0
    for colour, values in zip(("Red", "Green", "Blue"), table, strict=True):
        descriptor = f"{colour}PaletteColorLookupTableDescriptor"
        data.add_new(tag_for_keyword(descriptor), "US", [count % 65536, 0, 16])
        setattr(data, f"{colour}PaletteColorLookupTableData", values.tobytes())
    expected = np.rint(table.T[stored].astype(np.float32) * (255 / 65535))
    np.testing.assert_array_equal(pixels_of(as_bytes(data))[0], expected)


@pytest.mark.parametrize("name", COLOUR)
def test_one_colour_codestream_is_read_in_every_way(name):
    data = dcmread(get_testdata_file(name, download=False))
    data.PhotometricInterpretation = "RGB"
    shown = pixels_of(as_bytes(data))[0]
    data.PhotometricInterpretation = "YBR_FULL"
    expected = convert_color_space(shown, "YBR_FULL", "RGB")
    np.testing.assert_array_equal(pixels_of(as_bytes(data))[0], expected)


@pytest.mark.filterwarnings("ignore:The .0028,0004.")
def test_a_jpeg_that_names_its_components_rgb_is_rgb_whatever_the_attribute_says():
    data = dcmread(get_testdata_file("SC_rgb_jpeg_gdcm.dcm", download=False))
    data.PhotometricInterpretation = "RGB"
    shown = pixels_of(as_bytes(data))[0]
    data.PhotometricInterpretation = "YBR_FULL"
    np.testing.assert_array_equal(pixels_of(as_bytes(data))[0], shown)


def as_bytes(data):
    file = io.BytesIO()
    data.save_as(file)
    return file.getvalue()
