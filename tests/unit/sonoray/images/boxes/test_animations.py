import numpy as np
import pytest
from PIL import Image

from sonoray.images.boxes.animations import read_series, read_webp
from sonoray.images.decode import RejectedImageError
from sonoray.images.video import VideoConfig


def write_webp(path, levels, durations):
    frames = [Image.fromarray(np.full((24, 32, 3), level, np.uint8)) for level in levels]
    first, *others = frames
    first.save(path, append_images=others, save_all=True, duration=durations, lossless=True)
    return path


def test_an_animation_is_taken_by_its_times(tmp_path):
    """Ten frames within 0.1 s, then five of one second."""
    path = write_webp(tmp_path / "a.webp", range(0, 150, 10), [10] * 10 + [1000] * 5)
    loop = read_webp(path, VideoConfig(max_frames=5))
    assert [frame.index for frame in loop.frames] == [10, 11, 12, 13, 14]
    assert [frame.pixels[5, 5].tolist() for frame in loop.frames] == [
        [level] * 3 for level in (100, 110, 120, 130, 140)
    ]
    frozen = write_webp(tmp_path / "b.webp", range(0, 150, 10), [10] * 14 + [5000])
    chosen = read_webp(frozen, VideoConfig(max_frames=5)).frames
    assert [frame.index for frame in chosen] == [10, 11, 12, 13, 14]
    by_change = read_webp(path, VideoConfig(max_frames=2, sampling="change"))
    assert [frame.index for frame in by_change.frames] == [3, 10]


def test_a_still_is_one_frame_and_what_is_transparent_is_black(tmp_path):
    pixels = np.full((24, 32, 4), 200, np.uint8)
    pixels[..., 3] = np.repeat([255, 0], 16)[None]
    Image.fromarray(pixels).save(tmp_path / "a.webp", lossless=True, exact=True)
    loop = read_webp(tmp_path / "a.webp", VideoConfig())
    (frame,) = loop.frames
    assert frame.pixels[0, [0, 31], 0].tolist() == [200, 0]
    assert loop.notes == ("transparent pixels laid over black",)
    opaque = read_webp(write_webp(tmp_path / "b.webp", (10, 20), 100), VideoConfig())
    assert opaque.notes == ()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"max_pixels": 700}, "too_many_pixels"),
        ({"max_length": 2}, "too_many_frames"),
        ({"max_duration_s": 0.25}, "too_long"),
    ],
)
def test_an_animation_over_a_limit_is_refused(tmp_path, settings, reason):
    path = write_webp(tmp_path / "a.webp", (10, 20, 30), 100)
    with pytest.raises(RejectedImageError) as caught:
        read_webp(path, VideoConfig(**settings))
    assert caught.value.reason == reason


def test_a_damaged_animation_is_unreadable(tmp_path):
    path = write_webp(tmp_path / "a.webp", (10, 20, 30), 100)
    for data in (path.read_bytes()[:-20], b"RIFF", b"\x89PNG\r\n\x1a\n" + bytes(40)):
        path.write_bytes(data)
        with pytest.raises(RejectedImageError, match=r"^unreadable:"):
            read_webp(path, VideoConfig())


def test_a_series_is_one_loop_of_any_depth_and_colour(tmp_path):
    ramp = np.arange(24 * 32).reshape(24, 32)
    files = {
        "1.pgm": b"P5 32 24 255\n" + (ramp % 256).astype(np.uint8).tobytes(),
        "2.pgm": b"P5 32 24 4095\n" + (ramp * 5).astype(">u2").tobytes(),
        "3.ppm": b"P6 32 24 255\n" + np.repeat((ramp % 256).astype(np.uint8), 3).tobytes(),
        "4.pgm": b"P2 2 1 100\n0 50\n",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    frames = read_series([tmp_path / name for name in files], VideoConfig()).frames
    assert [frame.index for frame in frames] == [0, 1, 2, 3]
    np.testing.assert_array_equal(frames[0].pixels, ramp % 256)
    np.testing.assert_allclose(frames[1].pixels, ramp * 5 * 255 / 4095, atol=0.51)
    np.testing.assert_array_equal(frames[2].pixels[..., 1], ramp % 256)
    assert frames[3].pixels.tolist() == [[0, 128]]
    paths = [tmp_path / "1.pgm"] * 30
    chosen = read_series(paths, VideoConfig(max_frames=3)).frames
    assert [frame.index for frame in chosen] == [5, 15, 25]
    with pytest.raises(RejectedImageError, match=r"^too_many_frames:"):
        read_series(paths, VideoConfig(max_length=29))
    (tmp_path / "1.pgm").write_bytes(files["1.pgm"][:-9])
    with pytest.raises(RejectedImageError, match=r"^unreadable:"):
        read_series(paths[:1], VideoConfig())
