import h5py
import numpy as np
import pytest

from sonoray.images.boxes.hdf5 import read_hdf5
from sonoray.images.decode import RejectedImageError
from sonoray.images.video import VideoConfig

DECIBEL = np.add.outer(np.linspace(0, -50, 40), np.linspace(0, -30, 30))
"""(depths, columns): darker downwards and to the right, down to -80 dB."""


def write(path, decibel, scan, axes):
    """As USTB does: pixels along depth first, frames first; each frame 6 dB below the last."""
    frames = np.stack([decibel - 6 * number for number in range(3)])
    phases = np.arange(frames.size).reshape(frames.shape)
    signal = 10 ** (frames / 20) * np.exp(1j * phases)
    stored = signal.swapaxes(1, 2).reshape(3, 1, 1, -1).astype(np.complex64)
    with h5py.File(path, "w") as file:
        group = file.create_group("b_data")
        group.attrs["class"] = "uff.beamformed_data"
        group["data/real"], group["data/imag"] = stored.real, stored.imag
        place = group.create_group("scan")
        place.attrs["class"] = np.array([scan.encode()])
        for name, axis in axes.items():
            place[name] = np.asarray(axis)[None]
    return path


def test_a_linear_scan_is_shown_over_60_decibel(tmp_path):
    axes = {"x_axis": np.linspace(-0.01, 0.019, 30), "z_axis": np.linspace(0.005, 0.0245, 40)}
    loop = read_hdf5(write(tmp_path / "a.uff", DECIBEL, "uff.linear_scan", axes), VideoConfig())
    assert loop.labels == {"spacing_mm_x": "1", "spacing_mm_y": "0.5"}
    assert loop.notes == ("beamformed signals are shown over 60 dB",)
    assert len(loop.frames) == 3
    for frame in loop.frames:
        expected = np.clip((DECIBEL - 6 * frame.index) / 60 + 1, 0, 1) * 255
        np.testing.assert_allclose(frame.pixels, expected, atol=0.6)


def test_a_sector_scan_is_brought_into_space(tmp_path):
    depths, angles = np.linspace(0.01, 0.05, 81), np.linspace(-0.5, 0.5, 41)
    rings = np.repeat(np.where(np.arange(81) == 40, 0.0, -60.0)[:, None], 41, 1)  # 30 mm deep
    axes = {"azimuth_axis": angles, "depth_axis": depths}
    loop = read_hdf5(write(tmp_path / "a.uff", rings, "uff.sector_scan", axes), VideoConfig())
    picture = loop.frames[0].pixels
    step_mm = 0.5
    assert loop.labels == {"spacing_mm_x": "0.5", "spacing_mm_y": "0.5"}
    y, x = np.nonzero(picture > 100)
    middle = (picture.shape[1] - 1) / 2
    top_mm = 10 * np.cos(0.5)
    radius_mm = np.hypot((x - middle) * step_mm, y * step_mm + top_mm)
    assert np.abs(radius_mm - 30).max() < 0.5
    assert np.ptp(x) * step_mm == pytest.approx(2 * 30 * np.sin(0.5), abs=1.5)


def test_signals_that_are_no_picture_yet_are_refused(tmp_path):
    axes = {"x_axis": np.arange(30.0), "z_axis": np.arange(40.0)}
    path = write(tmp_path / "a.uff", DECIBEL, "uff.linear_3D_scan", axes)
    with pytest.raises(RejectedImageError, match=r"^unsupported_mode: beamformed signals without"):
        read_hdf5(path, VideoConfig())
    path = write(tmp_path / "b.uff", DECIBEL, "uff.linear_scan", axes)
    with h5py.File(path, "a") as file:
        values = np.concatenate([file["b_data/data/real"][()]] * 2, axis=1)
        del file["b_data/data"]
        file["b_data/data"] = values
    with pytest.raises(RejectedImageError, match=r"^raw_channel_data: .* single channels or waves"):
        read_hdf5(path, VideoConfig())
    for axis in (np.arange(30.0)[::-1], np.arange(30.0) ** 2):
        path = write(tmp_path / "c.uff", DECIBEL, "uff.linear_scan", axes | {"x_axis": axis})
        with pytest.raises(RejectedImageError, match=r"^unsupported_mode: the scan's axes"):
            read_hdf5(path, VideoConfig())
    path = write(tmp_path / "d.uff", DECIBEL, "uff.linear_scan", axes | {"x_axis": np.arange(31.0)})
    with pytest.raises(RejectedImageError, match=r"^contradiction:"):
        read_hdf5(path, VideoConfig())
