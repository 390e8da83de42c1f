import h5py
import numpy as np
import pytest

from sonoray.images.boxes.hdf5 import read_hdf5
from sonoray.images.decode import RejectedImageError
from sonoray.images.video import VideoConfig

LOOP = np.stack([np.add.outer(np.arange(20), np.arange(30)) + 10 * n for n in range(10)]).astype(
    np.uint8
)
"""uint8 (10, 20, 30)."""
COLOURS = np.stack([LOOP, 255 - LOOP, LOOP // 2], axis=-1)


def write(path, datasets, **attributes):
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name] = values
            file[name].attrs.update(attributes)
    return path


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (LOOP, LOOP),
        (LOOP[0], LOOP[:1]),
        (COLOURS, COLOURS),
        (COLOURS[0], COLOURS[:1]),
        (LOOP.astype(np.float32), LOOP),
        (LOOP / 255, LOOP),
    ],
)
def test_the_one_data_set_of_pictures_is_read(tmp_path, values, expected):
    path = write(tmp_path / "a.h5", {"scan/data": values, "times": np.arange(10.0)})
    frames = read_hdf5(path, VideoConfig(max_frames=10)).frames
    np.testing.assert_array_equal(np.stack([frame.pixels for frame in frames]), expected)


def test_matlab_has_its_axes_the_other_way_round(tmp_path):
    for values, stored in ((LOOP, LOOP.swapaxes(1, 2)), (COLOURS, COLOURS.transpose(0, 3, 2, 1))):
        path = write(tmp_path / "a.h5", {"image": stored}, MATLAB_class="uint8")
        frames = read_hdf5(path, VideoConfig(max_frames=10)).frames
        np.testing.assert_array_equal(np.stack([frame.pixels for frame in frames]), values)


def test_of_several_data_sets_the_name_decides(tmp_path):
    path = write(tmp_path / "a.h5", {"x/BMode": LOOP, "x/label": LOOP // 2, "z": LOOP / 3})
    np.testing.assert_array_equal(read_hdf5(path, VideoConfig()).frames[0].pixels, LOOP[0])
    unclear = write(tmp_path / "b.h5", {"x/left": LOOP, "x/right": LOOP})
    with pytest.raises(RejectedImageError, match=r"^ambiguous: 2 data sets"):
        read_hdf5(unclear, VideoConfig())


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"max_pixels": 599}, "too_many_pixels"),
        ({"max_length": 9}, "too_many_frames"),
        ({"max_bytes": 5999}, "too_many_bytes"),
    ],
)
def test_a_file_over_a_limit_is_refused(tmp_path, settings, reason):
    path = write(tmp_path / "a.h5", {"image": LOOP})
    with pytest.raises(RejectedImageError) as caught:
        read_hdf5(path, VideoConfig(**settings))
    assert caught.value.reason == reason


def test_channel_data_and_files_without_pictures_are_refused(tmp_path):
    with h5py.File(tmp_path / "a.uff", "w") as file:
        group = file.create_group("channel_data")
        group.attrs["class"] = "uff.channel_data"
        group["data/real"] = group["data/imag"] = np.zeros((1, 5, 32, 400), np.float32)
    with pytest.raises(RejectedImageError, match=r"^raw_channel_data: UFF channel data"):
        read_hdf5(tmp_path / "a.uff", VideoConfig())
    path = write(tmp_path / "b.h5", {"times": np.arange(9.0), "rf": np.arange(999) - 500})
    with pytest.raises(RejectedImageError, match=r"^unreadable: no data set of pictures"):
        read_hdf5(path, VideoConfig())
    rf = write(tmp_path / "c.h5", {"rf": np.arange(-500, 500, dtype=np.int16).reshape(20, 50)})
    with pytest.raises(RejectedImageError, match=r"^unsupported_mode: int16 from -500 to 499"):
        read_hdf5(rf, VideoConfig())
    (tmp_path / "d.h5").write_bytes(path.read_bytes()[:500])
    with pytest.raises(RejectedImageError, match=r"^unreadable:") as caught:
        read_hdf5(tmp_path / "d.h5", VideoConfig())
    assert str(tmp_path) not in str(caught.value)


def test_pictures_in_other_files_stay_there(tmp_path):
    write(tmp_path / "secret.h5", {"image": LOOP})
    (tmp_path / "secret.raw").write_bytes(LOOP.tobytes())
    with h5py.File(tmp_path / "linked.h5", "w") as file:
        file["image"] = h5py.ExternalLink("secret.h5", "/image")
    with h5py.File(tmp_path / "external.h5", "w") as file:
        place = [(str(tmp_path / "secret.raw"), 0, LOOP.nbytes)]
        file.create_dataset("image", LOOP.shape, LOOP.dtype, external=place)
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        layout = h5py.VirtualLayout(LOOP.shape, LOOP.dtype)
        layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "image", LOOP.shape)
        file.create_virtual_dataset("image", layout)
    reasons = []
    for name in ("linked.h5", "external.h5", "virtual.h5"):
        with pytest.raises(RejectedImageError) as caught:
            read_hdf5(tmp_path / name, VideoConfig())
        reasons.append(caught.value.reason)
    assert reasons == ["unreadable", "outside_folder", "outside_folder"]
