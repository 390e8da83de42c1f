import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from sonoray.images.decode import RejectedImageError
from sonoray.images.loops import SUFFIXES, list_parts, read_loop, suffix_of
from sonoray.images.video import VideoConfig


def test_the_ending_of_the_name_decides():
    names = ("a.MP4", "b/c.nii.gz", "x.igs.mha", "e.gz", "mp4", ".mp4", "a.png", "b.avi.txt")
    found = [".mp4", ".nii.gz", ".mha", "", "", "", "", ""]
    assert [suffix_of(name) for name in names] == found
    assert all(suffix_of(f"a{suffix}") == suffix for suffix in SUFFIXES)


def test_the_data_of_a_header_are_a_part_of_it(tmp_path):
    values = np.arange(24 * 32, dtype=np.float32).reshape(24, 32) % 256
    sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / "a.mhd"))
    parts = list_parts(tmp_path / "a.mhd")
    assert parts == (tmp_path / "a.mhd", tmp_path / "a.raw")
    np.testing.assert_array_equal(read_loop(parts, VideoConfig()).frames[0].pixels, values)
    (tmp_path / "a.raw").unlink()
    assert list_parts(tmp_path / "a.mhd") == parts[:1]
    with pytest.raises(RejectedImageError, match=r"^missing_file:"):
        read_loop(parts[:1], VideoConfig())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_reader_refuses_what_is_empty_large_or_something_else(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    reasons = []
    for data, config in (
        (b"", VideoConfig()),
        (bytes(100), VideoConfig(max_bytes=99)),
        (b"text " * 200, VideoConfig()),
    ):
        path.write_bytes(data)
        with pytest.raises(RejectedImageError) as caught:
            read_loop(list_parts(path), config)
        reasons.append(caught.value.reason)
    assert reasons[:2] == ["empty_file", "too_many_bytes"]
    assert reasons[2] in ("unreadable", "outside_folder")
