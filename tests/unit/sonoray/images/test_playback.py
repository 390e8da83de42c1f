from fractions import Fraction

import av
import numpy as np
import pytest

from sonoray.images.decode import RejectedImageError
from sonoray.images.video import VideoConfig, read_video

RAMP = np.tile(np.linspace(16, 235, 64).astype(np.uint8), (48, 1))


def combing(picture):
    """How far each line is from the mean of its neighbours."""
    lines = picture[..., 0].astype(int)
    return np.abs(2 * lines[1:-1] - lines[:-2] - lines[2:]).mean()


def interlaced(number):
    """A bar that moves by 4 columns between the two moments of a frame."""

    def bar(left):
        picture = np.full((96, 128), 60, np.uint8)
        picture[:, left : left + 24] = 180
        return picture

    lines = bar(10 + 8 * number)
    lines[1::2] = bar(14 + 8 * number)[1::2]
    return lines


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"x264-params": "interlaced=1", "qp": "5"}),
        ("mpeg2video", {"flags": "+ildct+ilme", "b": "4M"}),
    ],
)
def test_interlaced_frames_show_one_moment(tmp_path, write_video, codec, options):
    path = tmp_path / "a.mkv"
    write_video(path, codec, "yuv420p", map(interlaced, range(10)), options=options)
    with av.open(str(path)) as container:
        stored = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    loop = read_video(path, VideoConfig(max_frames=10))
    assert loop.notes == ("frames were deinterlaced",)
    assert min(map(combing, stored)) > 10
    assert max(combing(frame.pixels) for frame in loop.frames) < 1
    edges = [int((frame.pixels[48, :, 0] > 120).argmax()) for frame in loop.frames]
    assert len(set(np.diff(edges))) == 1  # it moves on from frame to frame


def test_what_stands_still_keeps_its_lines(tmp_path, write_video):
    still = np.random.default_rng(0).integers(60, 200, (96, 128), dtype=np.uint8)
    options = {"x264-params": "interlaced=1", "qp": "0"}
    path = write_video(tmp_path / "a.mkv", "libx264", "yuv420p", [still] * 4, options=options)
    with av.open(str(path)) as container:
        stored = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    for frame in read_video(path, VideoConfig()).frames:
        np.testing.assert_array_equal(frame.pixels, stored[frame.index])


@pytest.mark.parametrize(
    ("aspect", "shape"),
    [(Fraction(32, 11), (48, 186, 3)), (Fraction(3, 4), (64, 64, 3)), (Fraction(1), (48, 64, 3))],
)
def test_pixels_are_square(tmp_path, write_video, aspect, shape):
    path = write_video(tmp_path / "a.mp4", "libx264", "yuv420p", aspect=aspect)
    loop = read_video(path, VideoConfig())
    assert {frame.pixels.shape for frame in loop.frames} == {shape}
    assert loop.notes == (() if aspect == 1 else ("pixels were made square",))
    if aspect > 1:
        with pytest.raises(RejectedImageError, match=r"^too_many_pixels: 186 x 48 with square"):
            read_video(path, VideoConfig(max_pixels=5000))


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mkv", "ffv1", {}),
        ("a.mp4", "libx265", {"x265-params": "lossless=1:log-level=none:pools=1"}),
    ],
)
def test_grey_of_limited_range_is_expanded_as_colour_is(
    tmp_path, write_video, name, codec, options
):
    for colour_range, ends in ((1, [0, 255]), (2, [16, 235])):
        shown = []
        for pixel_format in ("gray", "yuv420p"):
            path = write_video(
                tmp_path / pixel_format / name,
                codec,
                pixel_format,
                [RAMP] * 3,
                colour_range=colour_range,
                options=options,
            )
            pixels = read_video(path, VideoConfig()).frames[0].pixels
            assert pixels[5, [0, -1], 0].tolist() == ends
            shown.append(pixels.astype(int))
        assert np.abs(shown[0] - shown[1]).max() <= 1


def test_what_is_transparent_is_black(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgra"
        pixels = np.full((48, 64, 4), 200, np.uint8)
        pixels[..., 3] = np.repeat([255, 128, 0], 16)[:, None]
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="bgra")))
        container.mux(stream.encode())
    loop = read_video(path, VideoConfig())
    (frame,) = loop.frames
    assert frame.pixels[::16, 0, 0].tolist() == [200, 100, 0]
    assert loop.notes == ("transparent pixels laid over black",)
