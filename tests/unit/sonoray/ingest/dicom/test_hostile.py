"""What must not be decoded: contradictions, damage, and sizes that exhaust memory."""

import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from sonoray.errors import DataError
from sonoray.images.decode import ImageLimits, RejectedImageError
from sonoray.images.sandbox import GuardedPool
from sonoray.ingest.dicom.containers import ArchiveEntry, BytesEntry, list_entries
from sonoray.ingest.dicom.dicom_config import DicomConfig, DicomLimits
from sonoray.ingest.dicom.objects import decode_object, describe_object

CONFIG = DicomConfig()
LIMITS = ImageLimits()
LARGEST = {
    "Rows": 5_000,
    "Columns": 5_000,
    "SamplesPerPixel": 3,
    "PhotometricInterpretation": "RGB",
    "PlanarConfiguration": 0,
    "BitsAllocated": 16,
    "BitsStored": 16,
    "HighBit": 15,
}
"""A frame of 150,000,000 bytes, within the limits of a picture."""


def entry(data):
    return BytesEntry(ref="x", data=data, max_bytes=10**7)


@pytest.mark.parametrize(
    ("attributes", "problem"),
    [
        ({"Rows": None}, "missing_attribute: Rows"),
        ({"PhotometricInterpretation": ""}, "missing_attribute: PhotometricInterpretation"),
        ({"PhotometricInterpretation": "RGB"}, "contradiction: 1 samples per pixel with RGB"),
        ({"PhotometricInterpretation": "YBR_ICT"}, "unsupported_pixels: YBR_ICT in Explicit VR"),
        ({"PhotometricInterpretation": "WANG"}, "unsupported_pixels: an unknown photometric"),
        ({"BitsAllocated": 32}, "unsupported_pixels: 32 bits allocated"),
        ({"BitsStored": 9}, "unsupported_pixels: 8 bits allocated, 9 stored"),
        ({"HighBit": 5}, "unsupported_pixels: 8 bits allocated, 8 stored, high bit 5"),
        ({"Rows": 41}, "truncated: 1,920 bytes of pixels, 1 frames of 1,968 bytes"),
        ({"Rows": 0}, "contradiction: 48 x 0 pixels"),
        ({"NumberOfFrames": 20_000}, "too_many_frames: 20,000, at most 10,000"),
        ({"NumberOfFrames": 0}, "contradiction: 48 x 40 pixels in 0 frames"),
        ({"Rows": 60_000, "Columns": 60_000}, "too_many_pixels: 60000 x 60000"),
        (
            LARGEST | {"NumberOfFrames": 100},
            "too_many_bytes: 8 frames of 150,000,000 bytes, at most 1,000,000,000",
        ),
        ({"BurnedInAnnotation": "YES"}, "burned_in_annotation: "),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[:24],
)
def test_attributes_that_make_no_sense_are_one_line(make_object, make_picture, attributes, problem):
    data = make_object(make_picture()[None], **attributes)
    info = describe_object(entry(data), CONFIG, LIMITS)
    assert info.problem.startswith(problem)
    assert "\n" not in info.problem
    with pytest.raises(RejectedImageError, match=problem.partition(":")[0]):
        decode_object(entry(data), CONFIG, LIMITS)


@pytest.mark.parametrize(
    ("corners", "is_cropped"),
    [((0, 0, 47, 39), False), ((0, 0, 48, 40), False), ((0, 8, 47, 39), True)],
)
def test_a_region_that_is_the_whole_picture_rids_it_of_no_text(
    make_object, make_picture, corners, is_cropped
):
    area = Dataset()
    area.RegionSpatialFormat = area.RegionDataType = 1
    area.RegionLocationMinX0, area.RegionLocationMinY0 = corners[:2]
    area.RegionLocationMaxX1, area.RegionLocationMaxY1 = corners[2:]
    plain = make_object(make_picture()[None], SequenceOfUltrasoundRegions=[area])
    declared = make_object(
        make_picture()[None], SequenceOfUltrasoundRegions=[area], BurnedInAnnotation="YES"
    )
    problem = describe_object(entry(declared), CONFIG, LIMITS).problem
    assert problem.startswith("burned_in_annotation: ") is not is_cropped
    required = DicomConfig(crop="required")  # the scan area is known, and is all
    assert decode_object(entry(plain), required, LIMITS).is_cropped is is_cropped
    kept = DicomConfig(burned_in="keep")
    assert decode_object(entry(declared), kept, LIMITS).is_cropped is is_cropped


@pytest.mark.parametrize(
    "attributes",
    [{"WindowCenter": "0", "WindowWidth": "0"}, {"RescaleSlope": "0", "RescaleIntercept": "0"}],
    ids=["window", "slope"],
)
def test_a_window_that_makes_no_sense_is_refused(make_object, make_picture, attributes):
    with pytest.raises(RejectedImageError, match="bad_window"):
        decode_object(entry(make_object(make_picture()[None], **attributes)), CONFIG, LIMITS)


def test_a_palette_that_is_missing_is_refused(make_object, make_picture):
    data = make_object(make_picture()[None], PhotometricInterpretation="PALETTE COLOR")
    with pytest.raises(RejectedImageError, match="bad_palette"):
        decode_object(entry(data), CONFIG, LIMITS)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGBaseline8Bit])
def test_a_codestream_that_contradicts_the_attributes_is_not_decoded(
    make_object, make_picture, syntax, monkeypatch
):
    decoded = []
    monkeypatch.setattr(
        "pydicom.pixels.decoders.base.Decoder.as_array", lambda *_, **__: decoded.append(1)
    )
    if syntax == RLELossless:
        lie = make_object(make_picture()[None], syntax, BitsAllocated=16, BitsStored=16, HighBit=15)
    else:
        lie = make_object(make_picture()[None], syntax, Rows=24)
    with pytest.raises(RejectedImageError, match="contradiction"):
        decode_object(entry(lie), CONFIG, LIMITS)
    assert not decoded


def test_jpeg_2000_that_transforms_colours_is_no_ybr_full(make_object, make_picture):
    data = make_object(
        make_picture(samples=3)[None],
        JPEG2000Lossless,
        encode_as="YBR_RCT",
        PhotometricInterpretation="YBR_FULL",
    )
    with pytest.raises(RejectedImageError, match="should be YBR_RCT"):
        decode_object(entry(data), CONFIG, LIMITS)


def test_other_syntaxes_and_other_files_are_refused_unread(make_object, make_picture, monkeypatch):
    monkeypatch.setattr("zlib.decompress", None)  # deflated objects unpack without a limit
    deflated = Path(get_testdata_file("image_dfl.dcm", download=False)).read_bytes()
    plain = make_object(make_picture()[None])
    unknown = plain.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0")
    for content, reason in (
        (deflated, "unsupported_syntax: Deflated Explicit VR Little Endian"),
        (unknown, "unsupported_syntax"),
        (b"", "not_dicom"),
        (b"PK" * 200, "not_dicom"),
    ):
        with pytest.raises(RejectedImageError, match=reason):
            describe_object(entry(content), CONFIG, LIMITS)


def test_no_text_of_a_patient_is_in_a_description(make_object, make_picture):
    data = make_object(make_picture()[None], PatientBirthDate="19610203", PatientAge="064Y")
    info = describe_object(entry(data), CONFIG, LIMITS)
    assert info.labels["age"] == "64"
    assert "Secret" not in repr(info)
    assert "1961" not in repr(info)


def forge_zip(path: Path, content: bytes, *, method: int = 8, size: int) -> None:
    """An archive whose one entry announces `size` bytes, whatever it holds."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../bomb.dcm", content)
    data = bytearray(path.read_bytes())
    central = data.index(b"PK\x01\x02")
    struct.pack_into("<H", data, 8, method)
    struct.pack_into("<H", data, central + 10, method)
    struct.pack_into("<L", data, 22, size)
    struct.pack_into("<L", data, central + 24, size)
    path.write_bytes(data)


def test_what_would_unpack_to_a_gigabyte_takes_no_memory(make_object, make_picture, tmp_path):
    """Six bombs of at most 20 KB, one process: each a rejection, and 100 MB at its peak."""
    zeros = bytes(15_000_000)  # some 15 KB deflated
    forge_zip(tmp_path / "announced.zip", zeros, size=1 << 30)
    forge_zip(tmp_path / "hidden.zip", zeros, size=5_000)
    forge_zip(tmp_path / "method.zip", zeros, method=zipfile.ZIP_BZIP2, size=1 << 20)
    jpeg = bytearray(make_object(make_picture()[None], JPEGBaseline8Bit))
    start = jpeg.index(b"\xff\xc0")
    struct.pack_into(">HH", jpeg, start + 5, 32_000, 32_000)
    j2k = bytearray(make_object(make_picture()[None], JPEG2000Lossless))
    start = j2k.index(b"\xff\x4f\xff\x51")
    struct.pack_into(">LL", j2k, start + 8, 32_000, 32_000)
    frames = np.repeat(make_picture()[None], 4, axis=0)
    wide = make_object(frames, RLELossless, **LARGEST, NumberOfFrames=43)
    bombs = [
        *(
            ArchiveEntry(archive=path, position=0, ref=path.name, max_bytes=10**9)
            for path in sorted(tmp_path.glob("*.zip"))
        ),
        *(entry(bytes(data)) for data in (jpeg, j2k, wide)),
    ]
    reasons = []
    with GuardedPool(workers=1, memory_bytes=10**9, timeout_s=100) as pool:
        for bomb in bombs:
            with pytest.raises(RejectedImageError) as caught:
                pool.submit(decode_object, bomb, CONFIG, LIMITS).result()
            reasons.append(caught.value.reason)
        status = pool.submit(Path.read_text, Path("/proc/self/status")).result()
    assert reasons == [
        "too_many_bytes",
        "unreadable",
        "unsupported_compression",
        "contradiction",
        "contradiction",
        "too_many_bytes",
    ]
    peak_kib = int(status.partition("VmHWM:")[2].split()[0])
    assert peak_kib < 100_000
    assert not (tmp_path.parent.parent / "bomb.dcm").exists()


def test_an_archive_above_the_limits_is_one_clear_error(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number in range(3):
            archive.writestr(f"{number}", b"x" * 100)
    for limits in (DicomLimits(max_entries=2), DicomLimits(max_archive_bytes=299)):
        with pytest.raises(DataError, match=r"3 entries of 300 bytes.*split it, or raise"):
            list(list_entries(tmp_path / "a.zip", limits))
    assert len(list(list_entries(tmp_path / "a.zip", DicomLimits()))) == 3
    (tmp_path / "b.zip").write_bytes(b"no archive")
    with pytest.raises(DataError, match="no zip archive that can be read"):
        list(list_entries(tmp_path / "b.zip", DicomLimits()))
    for name, data in (("b.dcm", b"no preamble"), ("IM0001", bytes(128) + b"DICM")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match="single DICOM object; give the folder that holds it"):
            list(list_entries(tmp_path / name, DicomLimits()))
    with pytest.raises(DataError, match="no folder or zip archive"):
        list(list_entries(tmp_path / "c", DicomLimits()))


def test_an_archive_with_a_huge_directory_costs_no_memory_of_ours(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(50_000):
            archive.writestr(str(number), b"")
    with pytest.raises(DataError, match="out_of_memory"):
        list(list_entries(path, DicomLimits(worker_memory_bytes=8_000_000)))
