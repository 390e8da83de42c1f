"""Frames of a video file, decoded by FFmpeg through PyAV, with what is accepted checked before.

Size, resolution, length and duration are known before a frame is decoded: the header tells the
resolution, and the packets, which are counted without decoding them, the rest. Then the file is
decoded up to the last chosen frame, and only chosen frames become pixels.

FFmpeg reads hundreds of formats, and some of them, playlists for one, open other files and
addresses. Only the formats of `FORMATS` are tried, whatever the file is called, and nothing but the
open file itself is read. Run it in a process of `sonoray.images.sandbox`: the decoders are C.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
from pydantic import Field

from sonoray.config.model import Config
from sonoray.images.decode import Pixels, RejectedImageError
from sonoray.images.frames import choose_by_change, spread

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

FORMATS = ("avi", "gif", "matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2", "mpeg", "mpegts")
"""FFmpeg's names of the container formats that may be read."""
_SIDE = 32
"""Side of the small pictures that are compared, as in `sonoray.images.frames`."""


class VideoConfig(Config):
    """How video files become images."""

    study: Literal["file", "folder"] = "file"
    """What a study is: one file, or all files that lie in one folder."""
    sampling: Literal["uniform", "change"] = "uniform"
    """`uniform` takes the middles of equal stretches of the video; `change` takes the middles of
    equal shares of the change between neighbours, so that a still stretch gives fewer frames."""
    max_frames: int = Field(default=8, ge=1)
    """Most frames of one file that become images; a shorter one is taken whole."""
    max_bytes: int = Field(default=1_000_000_000, gt=0)
    """Largest file in bytes."""
    max_pixels: int = Field(default=4_000_000, gt=0)
    """Largest width x height of a frame."""
    max_length: int = Field(default=20_000, gt=0)
    """Most frames of a file, whichever are taken."""
    max_duration_s: float = Field(default=600, gt=0)
    """Longest video."""
    worker_memory_bytes: int = Field(default=2_000_000_000, gt=0)
    """What a decoding process may allocate on top of what it needs to start."""
    worker_timeout_s: float = Field(default=300, gt=0)
    """Longest time for one file."""


def read_frames(path: Path, config: VideoConfig) -> list[tuple[int, Pixels]]:
    """Decode the chosen frames of a video file.

    Returns:
        Position in the video and upright pixels, uint8 `(H, W, 3)` RGB, of at most `max_frames`
        frames in their order.

    Raises:
        RejectedImageError: `unreadable_file`, `empty_file`, `too_many_bytes`, `unreadable`,
            `too_many_pixels`, `too_many_frames` or `too_long`.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise _unreadable_file(error) from None
    if not size:
        raise RejectedImageError("empty_file: the video has 0 bytes; export it again")
    if size > config.max_bytes:
        raise RejectedImageError(
            f"too_many_bytes: {size:,} bytes, at most {config.max_bytes:,}; cut it or raise "
            "video.max_bytes"
        )
    length = _measure(path, config)
    chosen = spread(length, config.max_frames)
    if config.sampling == "change":
        small = np.stack([_shrink(frame) for frame in _decode(path, config)])
        chosen = choose_by_change(small, config.max_frames)
    wanted, frames = set(chosen), list[tuple[int, Pixels]]()
    for position, frame in enumerate(_decode(path, config)):
        if position in wanted:
            frames.append((position, _upright(frame)))
        if position == max(wanted):
            break
    if not frames:
        raise RejectedImageError("unreadable: no frame can be decoded; export the video again")
    return frames


def _measure(path: Path, config: VideoConfig) -> int:
    """Return the number of frames, decoding none.

    Raises:
        RejectedImageError: the video is larger than the configuration allows.
    """
    with _open(path, config) as (container, stream):
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > config.max_pixels:
            raise RejectedImageError(
                f"too_many_pixels: {width} x {height}, at most {config.max_pixels:,}; scale it "
                "down or raise video.max_pixels"
            )
        length, stamps = 0, []
        for packet in container.demux(stream):
            length += packet.size > 0
            if packet.pts is not None:
                stamps.append(packet.pts)
            if length > config.max_length:
                raise RejectedImageError(
                    f"too_many_frames: more than {config.max_length:,}; cut it or raise "
                    "video.max_length"
                )
        if not length:
            raise RejectedImageError("unreadable: the video has no frame; export it again")
        if stamps and stream.time_base is not None:
            duration_s = float((max(stamps) - min(stamps)) * stream.time_base)
            if duration_s > config.max_duration_s:
                raise RejectedImageError(
                    f"too_long: {duration_s:.0f} s, at most {config.max_duration_s:g}; cut it or "
                    "raise video.max_duration_s"
                )
    return length


def _decode(path: Path, config: VideoConfig) -> "Iterator[VideoFrame]":
    """Yield the frames in order, none larger than allowed."""
    with _open(path, config) as (container, stream):
        for frame in container.decode(stream):
            if frame.width * frame.height > config.max_pixels:  # it may change on the way
                raise RejectedImageError(
                    f"too_many_pixels: {frame.width} x {frame.height} in the middle of the video"
                )
            yield frame


@contextmanager
def _open(path: Path, config: VideoConfig) -> "Iterator[tuple[InputContainer, VideoStream]]":
    import av

    # opening may decode a frame already; up to four times the limit the refusal is ours, and clear
    limits = {"max_pixels": str(4 * config.max_pixels)}
    try:
        with (
            path.open("rb") as file,
            av.open(
                file,
                options=limits,
                container_options={
                    "format_whitelist": ",".join(FORMATS),
                    "protocol_whitelist": "none",
                },
            ) as container,
        ):
            assert isinstance(container, av.container.InputContainer)  # opened to read
            if not container.streams.video:
                raise RejectedImageError("unreadable: the file has no video; remove it")
            stream = container.streams.video[0]
            stream.codec_context.options = limits
            yield container, stream
    except av.FFmpegError as error:
        raise RejectedImageError(
            f"unreadable: {error.strerror}; the video is damaged, incomplete or of another format"
        ) from None
    except OSError as error:
        raise _unreadable_file(error) from None


def _unreadable_file(error: OSError) -> RejectedImageError:
    return RejectedImageError(
        f"unreadable_file: it cannot be read ({error.strerror}); check its rights"
    )


def _upright(frame: "VideoFrame") -> Pixels:
    """Turn and mirror a frame as the file's display matrix says; phones leave that to the player.

    The matrix maps (x, y), y down, to (a x + c y, b x + d y): ISO/IEC 14496-12, 6.2.2. An angle
    between counts as the nearest multiple of 90 degrees.
    """
    pixels = frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
    matrix = cast("bytes | None", frame.side_data.get("DISPLAYMATRIX"))  # not in PyAV's stubs
    if matrix is None:
        return pixels
    (a, b), (c, d) = np.frombuffer(matrix, np.int32).reshape(3, 3)[:2, :2].tolist()
    if abs(b) > abs(a):
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    return np.ascontiguousarray(pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def _shrink(frame: "VideoFrame") -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Scale a frame to grey float32 `(32, 32)`."""
    small = frame.to_ndarray(format="gray", width=_SIDE, height=_SIDE, interpolation="AREA")
    return small.astype(np.float32)
