import gzip

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from sonoray.images.boxes.volumes import find_data_file, read_volume
from sonoray.images.decode import RejectedImageError
from sonoray.images.loops import suffix_of
from sonoray.images.video import VideoConfig

RAMP = np.add.outer(np.arange(48), np.arange(64)).astype(np.uint8)
LOOP = np.stack([RAMP + 10 * number for number in range(10)])
"""uint8 (10, 48, 64): each frame is 10 brighter than the one before."""


def read(path, **settings):
    return read_volume(path, suffix_of(path.name), VideoConfig(**settings))


def write(path, values, *, spacing=(0.2, 0.3, 1), compressed=False, **fields):
    image = sitk.GetImageFromArray(values, isVector=values.ndim == 4)
    image.SetSpacing(spacing[: image.GetDimension()])
    for name, value in fields.items():
        image.SetMetaData(name, value)
    sitk.WriteImage(image, str(path), compressed)
    return path


def write_plus(path, values=LOOP, *, times=None, invalid=(), data="LOCAL", **fields):
    """A sequence as PLUS writes it."""
    count, height, width = values.shape
    header = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "DimSize": f"{width} {height} {count}",
        "ElementSpacing": "1 1 1",
        "ElementType": "MET_UCHAR",
        "Kinds": "domain domain list",
        "UltrasoundImageOrientation": "MF",
        "UltrasoundImageType": "BRIGHTNESS",
        **fields,
    }
    for number in range(count):
        name = f"Seq_Frame{number:04d}"
        header[f"{name}_ProbeToTrackerTransform"] = "1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1"
        header[f"{name}_Timestamp"] = str(0.1 * number if times is None else times[number])
        header[f"{name}_ImageStatus"] = "INVALID" if number in invalid else "OK"
    lines = [f"{name} = {value}" for name, value in header.items()]
    text = "\n".join([*lines, f"ElementDataFile = {data}", ""])
    path.write_bytes(text.encode() + (values.tobytes() if data == "LOCAL" else b""))
    return path


@pytest.mark.parametrize("name", ["a.mha", "a.mhd", "a.nrrd", "a.nii", "a.nii.gz", "A.NII.GZ"])
@pytest.mark.parametrize("compressed", [False, True])
def test_each_format_gives_its_pixels_and_their_size(tmp_path, name, compressed):
    path = write(tmp_path / name.lower(), LOOP, compressed=compressed).rename(tmp_path / name)
    loop = read(path, max_frames=5)
    assert [frame.index for frame in loop.frames] == [1, 3, 5, 7, 9]
    for frame in loop.frames:
        np.testing.assert_array_equal(frame.pixels, LOOP[frame.index])
    assert loop.labels == {"spacing_mm_x": "0.2", "spacing_mm_y": "0.3"}
    assert loop.notes == ()


def test_stills_colours_and_more_axes_are_pictures_too(tmp_path):
    (still,) = read(write(tmp_path / "a.mha", RAMP)).frames
    np.testing.assert_array_equal(still.pixels, RAMP)
    colours = np.stack([LOOP, 255 - LOOP, LOOP // 2], axis=-1)
    frames = read(write(tmp_path / "b.nrrd", colours), max_frames=10).frames
    np.testing.assert_array_equal(np.stack([frame.pixels for frame in frames]), colours)
    image = sitk.JoinSeries([sitk.GetImageFromArray(LOOP[:5]), sitk.GetImageFromArray(LOOP[5:])])
    sitk.WriteImage(image, str(tmp_path / "c.nii.gz"))
    frames = read(tmp_path / "c.nii.gz", max_frames=10).frames
    np.testing.assert_array_equal(np.stack([frame.pixels for frame in frames]), LOOP)


def test_a_sequence_of_plus_is_taken_by_its_times_without_what_is_invalid(tmp_path):
    times = [0, 0.01, 0.02, 0.03, 0.04, 1, 2, 3, 4, 5]
    loop = read(write_plus(tmp_path / "a.mha", times=times, invalid=(6,)), max_frames=4)
    assert [int(frame.pixels[0, 0]) // 10 for frame in loop.frames] == [4, 5, 7, 8]
    assert loop.notes == ("frames marked invalid are left out",)
    assert loop.labels == {}  # 1 by 1 is what stands there where nothing is known
    near = read(write_plus(tmp_path / "b.mha", UltrasoundImageOrientation="MN"), max_frames=1)
    np.testing.assert_array_equal(near.frames[0].pixels, LOOP[5][::-1])
    assert near.notes == ("pictures with the probe below are turned",)


@pytest.mark.parametrize(
    ("fields", "settings", "reason"),
    [
        ({"UltrasoundImageType": "RF_REAL"}, {}, "raw_channel_data"),
        ({"invalid": range(10)}, {}, "unreadable"),
        ({}, {"max_pixels": 3071}, "too_many_pixels"),
        ({}, {"max_length": 9}, "too_many_frames"),
        ({}, {"max_bytes": 30_719}, "too_many_bytes"),
        ({}, {"max_duration_s": 0.8}, "too_long"),
        ({"DimSize": "64 48 11"}, {}, "unreadable"),
        ({"DimSize": "64000 48000 10"}, {}, "too_many_pixels"),
        ({"DimSize": "64"}, {}, "unreadable"),
        ({"data": "../secret.raw"}, {}, "outside_folder"),
    ],
)
def test_what_is_no_sequence_of_pictures_is_refused(tmp_path, fields, settings, reason):
    with pytest.raises(RejectedImageError) as caught:
        read(write_plus(tmp_path / "a.mha", **fields), **settings)
    assert caught.value.reason == reason
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("../secret.raw", "outside_folder"),
        ("/etc/passwd", "outside_folder"),
        ("C:secret.raw", "outside_folder"),
        ("LIST", "outside_folder"),
        ("slice%03d.raw 1 10 1", "outside_folder"),
        ("gone.raw", "missing_file"),
    ],
)
def test_the_data_of_a_header_lie_beside_it(tmp_path, data, reason):
    (tmp_path / "secret.raw").write_bytes(LOOP.tobytes())
    folder = tmp_path / "loops"
    folder.mkdir()
    path = write_plus(folder / "a.mhd", data=data)
    with pytest.raises(RejectedImageError) as caught:
        read(path)
    assert caught.value.reason == reason
    (folder / "a.raw").write_bytes(LOOP.tobytes())
    beside = write_plus(folder / "b.mhd", data="a.raw")
    assert find_data_file(beside) == folder / "a.raw"
    assert len(read(beside).frames) == 8


def test_an_nrrd_header_apart_from_its_data_is_refused(tmp_path):
    path = write(tmp_path / "a.nrrd", LOOP)
    head, _, data = path.read_bytes().partition(b"\n\n")
    (tmp_path / "secret.raw").write_bytes(data)
    path.write_bytes(head + b"\ndata file: secret.raw\n\n")
    with pytest.raises(RejectedImageError, match=r"^outside_folder:"):
        read(path)


def test_a_window_of_nifti_is_applied(tmp_path):
    values = (LOOP.astype(np.int16) - 100) * 10
    image = write(tmp_path / "a.nii", values)
    with pytest.raises(RejectedImageError, match=r"^unsupported_mode: int16 from -1000 to 1000"):
        read(image)
    data = bytearray(image.read_bytes())
    data[124:132] = np.array([1000, -1000], "<f4").tobytes()  # cal_max, cal_min
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(bytes(data)))
    frame = read(tmp_path / "b.nii.gz", max_frames=1).frames[0]
    np.testing.assert_array_equal(frame.pixels, np.rint((values[5] + 1000.0) * 255 / 2000))


def test_a_segmentation_is_no_picture(tmp_path):
    labels = (LOOP > 60).astype(np.uint8) + (LOOP > 120)
    with pytest.raises(RejectedImageError, match=r"^label_map: whole numbers from 0 to 2"):
        read(write(tmp_path / "a_gt.nii.gz", labels))


def test_a_file_of_another_format_is_unreadable(tmp_path):
    mha = write(tmp_path / "a.mha", LOOP).read_bytes()
    (tmp_path / "b.nii").write_bytes(mha)
    (tmp_path / "c.mha").write_bytes(mha[:-10])
    for name in ("b.nii", "c.mha"):
        with pytest.raises(RejectedImageError, match=r"^unreadable:"):
            read(tmp_path / name)
