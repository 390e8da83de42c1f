import struct

import av
import numpy as np
import pytest
from av.stream import Disposition

from sonoray.images.decode import RejectedImageError
from sonoray.images.video import BARE_FORMATS, VideoConfig, read_video

STEP = 8


def indices(loop):
    return [frame.index for frame in loop.frames]


def levels(loop):
    return [(frame.index, int(frame.pixels[0, 0, 0])) for frame in loop.frames]


def test_frames_are_the_middles_of_equal_stretches(tmp_path, write_video):
    path = write_video(tmp_path / "a.avi")
    for video in (path, path.read_bytes()):
        loop = read_video(video, VideoConfig(max_frames=5))
        assert levels(loop) == [(n, n * STEP) for n in (3, 9, 15, 21, 27)]
        assert {(frame.pixels.shape, str(frame.pixels.dtype)) for frame in loop.frames} == {
            ((48, 64, 3), "uint8")
        }
        assert loop.notes == ()


def test_frames_by_change_leave_a_still_stretch_alone(tmp_path, write_video):
    still_then_moving = [0] * 20 + list(range(0, 200, 20))
    path = write_video(tmp_path / "a.avi", values=still_then_moving)
    chosen = indices(read_video(path, VideoConfig(max_frames=3, sampling="change")))
    assert len(chosen) == 3
    assert min(chosen) >= 20
    assert indices(read_video(path, VideoConfig(max_frames=3))) == [5, 15, 25]


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"),
    [("a.mp4", "mpeg4", "yuv420p"), ("a.gif", "gif", "rgb8"), ("a.mkv", "libx264", "yuv420p")],
)
def test_other_formats_give_the_same_frames(tmp_path, write_video, name, codec, pixel_format):
    path = write_video(tmp_path / name, codec, pixel_format)
    frames = levels(read_video(path, VideoConfig(max_frames=3)))
    assert [position for position, _ in frames] == [5, 15, 25]
    shown = [28, 121, 214] if pixel_format == "yuv420p" else [40, 120, 200]  # limited range
    assert [level for _, level in frames] == pytest.approx(shown, abs=24)


@pytest.mark.parametrize(
    ("matrix", "show"),
    [
        ((1, 0, 0, 1), lambda stored: stored),
        ((0, 1, -1, 0), lambda stored: np.rot90(stored, -1)),  # a phone held upright: clockwise
        ((-1, 0, 0, -1), lambda stored: np.rot90(stored, 2)),
        ((0, -1, 1, 0), lambda stored: np.rot90(stored, 1)),
        ((-1, 0, 0, 1), np.fliplr),
        ((0, 1, 1, 0), lambda stored: stored.swapaxes(0, 1)),
    ],
)
def test_frames_are_shown_as_the_display_matrix_says(tmp_path, matrix, show):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        pixels = np.zeros((48, 64, 3), np.uint8)
        pixels[:24, :32] = 200
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    stored = read_video(path, VideoConfig()).frames[0].pixels
    data = path.read_bytes()

    def track_matrix(a, b, c, d):  # 16.16 fixed point, the third column 2.30
        return struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)

    track = data.index(b"tkhd")
    place = data.index(track_matrix(1, 0, 0, 1), track)
    path.write_bytes(data[:place] + track_matrix(*matrix) + data[place + 36 :])
    shown = read_video(path, VideoConfig()).frames[0].pixels
    np.testing.assert_array_equal(shown, show(stored))
    assert stored[:20, :28].min() > 150 > 50 > stored[28:, 36:].max()


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"max_bytes": 100}, "too_many_bytes"),
        ({"max_pixels": 1000}, "too_many_pixels"),
        ({"max_pixels": 10}, "unreadable"),
        ({"max_length": 29}, "too_many_frames"),
        ({"max_duration_s": 2.5}, "too_long"),
    ],
)
def test_a_video_over_a_limit_is_refused(tmp_path, write_video, limits, reason):
    path = write_video(tmp_path / "a.avi")
    with pytest.raises(RejectedImageError) as caught:
        read_video(path, VideoConfig(**limits))
    assert caught.value.reason == reason


def test_a_playlist_called_video_opens_nothing(tmp_path, write_video):
    write_video(tmp_path / "secret.avi")
    playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.avi\n#EXT-X-ENDLIST\n"
    for text in (playlist, "ffconcat version 1.0\nfile secret.avi\n", "text", ""):
        (tmp_path / "a.mp4").write_text(text)
        with pytest.raises(RejectedImageError) as caught:
            read_video(tmp_path / "a.mp4", VideoConfig())
        assert caught.value.reason == ("unreadable" if text else "empty_file")


def test_a_file_that_went_is_not_called_damaged(tmp_path):
    with pytest.raises(RejectedImageError, match=r"^unreadable_file: .* \(No such file"):
        read_video(tmp_path / "a.avi", VideoConfig())


def test_a_header_that_lies_about_its_size_is_refused(tmp_path, write_video):
    path = write_video(tmp_path / "a.gif", "gif", "rgb8")
    data = bytearray(path.read_bytes())
    data[6:10] = b"\xff\xff\xff\xff"  # 65,535 x 65,535
    path.write_bytes(data)
    with pytest.raises(RejectedImageError, match=r"unreadable|too_many_pixels"):
        read_video(path, VideoConfig())


def test_frames_that_an_edit_list_hides_are_not_counted(tmp_path, write_video):
    """A clip of 1.5 s that was cut out of 25 s without encoding it again."""
    path = write_video(
        tmp_path / "a.mp4", "libx264", "yuv420p", values=range(250), options={"g": "50", "qp": "0"}
    )
    data = bytearray(path.read_bytes())
    media = data.index(b"mdhd")
    (scale,) = struct.unpack_from(">I", data, media + 16)
    edit = data.index(b"elst") + 12  # version, count, then duration and start of the only edit
    (start,) = struct.unpack_from(">i", data, edit + 4)
    struct.pack_into(">Ii", data, edit, 1500, start + 7 * scale)
    path.write_bytes(data)
    loop = read_video(path, VideoConfig())
    assert indices(loop) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert loop.notes == ("what an edit list cuts off is left out",)
    by_change = read_video(path, VideoConfig(sampling="change"))
    assert max(indices(by_change)) < 15
    assert by_change.notes == loop.notes
    expected = [(70 + index - 16) * 255 / 219 for index in indices(loop)]
    assert [frame.pixels[0, 0, 0] for frame in loop.frames] == pytest.approx(expected, abs=2)
    assert len(read_video(path, VideoConfig(max_frames=30, max_duration_s=2)).frames) == 15


def test_frames_that_a_codec_hides_are_not_counted(tmp_path, write_video):
    """VP8 frames that only others refer to lack a bit in their first byte."""
    texture = np.random.default_rng(0).integers(60, 200, (96, 128), dtype=np.uint8)
    values = [np.roll(texture, (n // 2, n), (0, 1))[:48, :64] for n in range(61)]
    whole = write_video(tmp_path / "a.webm", "libvpx", "yuv420p", values)
    path = tmp_path / "b.webm"
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            data = bytearray(bytes(packet))
            if not data:
                continue
            if number % 2:
                assert data[0] & 1, "a key frame cannot be hidden"
                data[0] &= ~0x10
            made = av.Packet(bytes(data))
            made.pts, made.dts, made.time_base = packet.pts, packet.dts, packet.time_base
            made.is_keyframe, made.stream = packet.is_keyframe, stream
            target.mux(made)
    loop = read_video(path, VideoConfig())
    assert indices(loop) == [1, 5, 9, 13, 17, 20, 24, 28]  # the last is shown half as long
    shown = read_video(whole, VideoConfig(max_frames=61))
    for frame in loop.frames:
        np.testing.assert_array_equal(frame.pixels, shown.frames[2 * frame.index].pixels)


def test_evenly_means_in_time(tmp_path, write_video):
    """Twenty frames within 0.2 s, then one a second."""
    milliseconds = [*range(0, 200, 10), *range(1000, 11000, 1000)]
    path = write_video(tmp_path / "a.mkv", milliseconds=milliseconds)
    assert indices(read_video(path, VideoConfig(max_frames=5))) == [20, 22, 24, 26, 28]


def test_frames_beside_the_trim_are_not_shown(tmp_path, write_video):
    path = write_video(tmp_path / "a.mkv")
    loop = read_video(path, VideoConfig(max_frames=2), trim=range(10, 20))
    assert levels(loop) == [(12, 12 * STEP), (17, 17 * STEP)]
    assert loop.notes == ()


@pytest.mark.parametrize(("codec", "form"), [("libx264", "h264"), ("mpeg2video", "mpeg2video")])
def test_a_bare_stream_is_read_where_it_is_allowed(tmp_path, write_video, codec, form):
    path = write_video(tmp_path / "a.mkv", codec, "yuv420p")
    with av.open(str(path)) as container, av.open(str(tmp_path / "a.bin"), "w", form) as target:
        made = target.add_stream_from_template(container.streams.video[0])
        for packet in container.demux(video=0):
            if packet.size:
                packet.stream = made
                target.mux(packet)
    stream = (tmp_path / "a.bin").read_bytes()
    loop = read_video(stream, VideoConfig(max_frames=3), formats=BARE_FORMATS)
    assert indices(loop) == [5, 15, 25]
    with pytest.raises(RejectedImageError, match=r"^unreadable:"):
        read_video(stream, VideoConfig())


def test_the_largest_track_is_the_video(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        sizes = {(32, 24): 10, (128, 96): 200, (64, 48): 100}
        streams = []
        for width, height in sizes:
            stream = container.add_stream("ffv1", rate=10)
            stream.width, stream.height, stream.pix_fmt = width, height, "bgr0"
            streams.append(stream)
        for stream, ((width, height), value) in zip(streams, sizes.items(), strict=True):
            pixels = np.full((height, width, 3), value, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="bgr0")
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
    (frame,) = read_video(path, VideoConfig()).frames
    assert frame.pixels.shape == (96, 128, 3)
    assert (frame.pixels == 200).all()


def test_a_cover_is_no_video_however_large(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        cover = container.add_stream("png", rate=10)
        cover.width, cover.height, cover.pix_fmt = 256, 256, "rgb24"
        cover.disposition = Disposition.attached_pic
        for each, shape, pixel_format in (
            (cover, (256, 256), "rgb24"),
            (stream, (48, 64), "yuv420p"),
        ):
            pixels = np.full((*shape, 3), 200, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=pixel_format)
            container.mux(each.encode(frame))
            container.mux(each.encode())
    (frame,) = read_video(path, VideoConfig()).frames
    assert frame.pixels.shape == (48, 64, 3)


def test_a_damaged_end_costs_nothing_that_was_chosen(tmp_path, write_video):
    path = write_video(tmp_path / "a.mov", "png", "rgb24")
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    data = path.read_bytes()
    path.write_bytes(data.replace(packets[-1], bytes(len(packets[-1]))))
    loop = read_video(path, VideoConfig(max_frames=3))
    assert levels(loop) == [(n, n * STEP) for n in (4, 14, 24)]  # of the 29 that can be shown
    assert loop.notes == ("the end is damaged and left out",)
    path.write_bytes(data.replace(packets[9], bytes(len(packets[9]))))
    with pytest.raises(RejectedImageError, match=r"^unreadable:"):
        read_video(path, VideoConfig(max_frames=3))
