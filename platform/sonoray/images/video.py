"""Chosen frames of a video, decoded by FFmpeg through PyAV, with what is accepted checked before.

Size, resolution, length and duration are known before a frame is decoded: the header tells the
resolution, and the packets, which are counted without decoding them, the rest. A packet is no
frame, though. A trimmed file keeps packets that are decoded and never shown (edit lists of MP4),
and some codecs have frames that only others refer to (VP8). What counts is what is shown, and that
is certain only once all is decoded. The times of the packets foretell which frames will be chosen,
and these become pixels on the way; where the frames then turn out to be shown at other times, the
file is decoded once more.

FFmpeg reads hundreds of formats, and some of them, playlists for one, open other files and
addresses. Only the formats of `FORMATS` are tried, whatever the file is called, and nothing but the
open file itself is read. Run it in a process of `sonoray.images.sandbox`: the decoders are C.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from io import BytesIO
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

import numpy as np
from pydantic import Field

from sonoray.config.model import Config
from sonoray.images.decode import RejectedImageError
from sonoray.images.frames import Frame, Loop, choose_by_change, spread_in_time
from sonoray.images.playback import is_transparent, show
from sonoray.images.transparency import LAID_OVER_BLACK

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

FORMATS = ("avi", "gif", "matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2", "mpeg", "mpegts")
"""FFmpeg's names of the container formats that may be read."""
BARE_FORMATS = ("h264", "hevc", "mpegvideo")
"""Streams without a container, as DICOM has them; these tell no times."""
_SIDE = 32
"""Side of the small pictures that are compared, as in `sonoray.images.frames`."""


class VideoConfig(Config):
    """How video files become images."""

    study: Literal["file", "folder"] = "file"
    """What a study is: one file, or all files that lie in one folder."""
    sampling: Literal["uniform", "change"] = "uniform"
    """`uniform` takes the frames shown in the middles of equal stretches of time; `change` takes
    the middles of equal shares of the change between neighbours, so that a still stretch gives
    fewer frames."""
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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Times:
    """When the frames of a video are shown, in its own unit."""

    starts: Sequence[int | None]
    last: int
    """For how long the last one is shown; 0 if unknown."""
    num_cut: int = 0
    """Frames that an edit list keeps from being shown, as far as packets tell."""

    def choose(self, wanted: int) -> tuple[int, ...]:
        return spread_in_time(self.starts, wanted, last=self.last)


def read_video(
    video: Path | bytes,
    config: VideoConfig,
    *,
    formats: Sequence[str] = FORMATS,
    trim: range | None = None,
) -> Loop:
    """Decode the chosen frames of a video.

    Args:
        video: the file, or what stands in it.
        config: which frames are taken, and what is accepted.
        formats: FFmpeg's names of the formats that are tried.
        trim: the frames that are shown, by position, where something beside the file says so.

    Returns:
        At most `max_frames` frames in their order, uint8 `(H, W, 3)` RGB, upright and with square
        pixels. With `trim` their positions are still those in the video.

    Raises:
        RejectedImageError: `unreadable_file`, `empty_file`, `too_many_bytes`, `unreadable`,
            `too_many_pixels`, `too_many_frames` or `too_long`.
    """
    check_bytes(video, max_bytes=config.max_bytes)
    source = _Source(video=video, config=config, formats=tuple(formats), trim=trim)
    announced = source.measure()
    if config.sampling == "change":
        small = [_shrink(frame) for _, frame, _ in source.decode()]
        chosen = choose_by_change(np.stack(small), config.max_frames) if small else ()
    else:
        chosen = announced.choose(config.max_frames)
    loop, shown = source.take(chosen)
    again = shown.choose(config.max_frames)
    if config.sampling == "uniform" and again != chosen:
        loop, _ = source.take(again)
    if announced.num_cut:
        return replace(loop, notes=(*loop.notes, "what an edit list cuts off is left out"))
    return loop


def check_bytes(*videos: Path | bytes, max_bytes: int) -> None:
    """Refuse files that together are empty or larger than allowed.

    Raises:
        RejectedImageError: `unreadable_file`, `empty_file` or `too_many_bytes`.
    """
    try:
        size = sum(len(each) if isinstance(each, bytes) else each.stat().st_size for each in videos)
    except OSError as error:
        raise _unreadable_file(error) from None
    if not size:
        raise RejectedImageError("empty_file: the video has 0 bytes; export it again")
    if size > max_bytes:
        raise RejectedImageError(
            f"too_many_bytes: {size:,} bytes, at most {max_bytes:,}; cut it or raise "
            "video.max_bytes"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Source:
    """One video, opened anew for each pass over it."""

    video: Path | bytes
    config: VideoConfig
    formats: tuple[str, ...]
    trim: range | None

    def measure(self) -> _Times:
        """Foretell when frames are shown, decoding none.

        Raises:
            RejectedImageError: the video is larger than the configuration allows.
        """
        config = self.config
        with self._open() as (container, stream):
            width, height = stream.codec_context.width, stream.codec_context.height
            if width * height > config.max_pixels:
                raise RejectedImageError(
                    f"too_many_pixels: {width} x {height}, at most {config.max_pixels:,}; scale "
                    "it down or raise video.max_pixels"
                )
            length, num_cut, stamps = 0, 0, list[tuple[int | None, int]]()
            for packet in container.demux(stream):
                if packet.size > 0:
                    length += 1
                    num_cut += packet.is_discard
                    if not packet.is_discard:
                        stamps.append((packet.pts, packet.duration or 0))
                if length > config.max_length:
                    raise RejectedImageError(
                        f"too_many_frames: more than {config.max_length:,}; cut it or raise "
                        "video.max_length"
                    )
            unit = stream.time_base or Fraction(0)
        if not length:
            raise RejectedImageError("unreadable: the video has no frame; export it again")
        known = sorted((pts, duration) for pts, duration in stamps if pts is not None)
        if known and (duration_s := float((known[-1][0] - known[0][0]) * unit)) > (
            config.max_duration_s
        ):
            raise RejectedImageError(
                f"too_long: {duration_s:.0f} s, at most {config.max_duration_s:g}; cut it or "
                "raise video.max_duration_s"
            )
        starts: list[int | None] = [pts for pts, _ in known]
        if len(known) < len(stamps):
            starts = [None] * len(stamps)
        if self.trim is not None:
            starts = starts[self.trim.start : self.trim.stop]
        return _Times(starts=starts, last=known[-1][1] if known else 0, num_cut=num_cut)

    def take(self, chosen: Collection[int]) -> tuple[Loop, _Times]:
        """Decode the whole video and bring the frames at the positions `chosen` to pixels.

        Returns:
            These frames, and when all frames are shown. Where the end of the file is damaged and
            all that was asked for stands before it, the loop's notes say so.

        Raises:
            RejectedImageError: it is damaged before, or no frame is shown at those positions.
        """
        import av

        frames, starts, last, notes = list[Frame](), list[int | None](), 0, dict[str, None]()
        with self._open() as (container, stream):
            aspect = _pixel_aspect(stream)
            try:
                for before, frame, after in self._windows(container, stream):
                    index = len(starts)
                    starts.append(frame.dts if frame.pts is None else frame.pts)
                    last = frame.duration
                    if index not in chosen:
                        continue
                    pixels = show(
                        frame,
                        before=before,
                        after=after,
                        aspect=aspect,
                        max_pixels=self.config.max_pixels,
                    )
                    first = 0 if self.trim is None else self.trim.start
                    frames.append(Frame(index=first + index, pixels=pixels))
                    if frame.interlaced_frame:
                        notes["frames were deinterlaced"] = None
                    if is_transparent(frame):
                        notes[LAID_OVER_BLACK] = None
            except av.FFmpegError:
                if len(frames) < len(chosen):
                    raise
                notes["the end is damaged and left out"] = None
        if aspect != 1:
            notes["pixels were made square"] = None
        if not frames and not starts:
            raise RejectedImageError("unreadable: no frame can be decoded; export the video again")
        return Loop(frames=tuple(frames), notes=tuple(notes)), _Times(starts=starts, last=last)

    def decode(self) -> "Iterator[_Window]":
        """Yield every shown frame between its neighbours."""
        with self._open() as (container, stream):
            yield from self._windows(container, stream)

    def _windows(self, container: "InputContainer", stream: "VideoStream") -> "Iterator[_Window]":
        import av

        failed: list[av.FFmpegError] = []

        def checked() -> "Iterator[VideoFrame]":
            try:
                for position, frame in enumerate(container.decode(stream)):
                    if frame.width * frame.height > self.config.max_pixels:  # may change on the way
                        raise RejectedImageError(
                            f"too_many_pixels: {frame.width} x {frame.height} in the middle of the "
                            "video"
                        )
                    if self.trim is None or position in self.trim:
                        yield frame
            except av.FFmpegError as error:  # the frame before it waits to be shown
                failed.append(error)

        before: VideoFrame | None = None
        for frame, after in pairwise(chain(checked(), (None,))):
            assert frame is not None
            yield before, frame, after
            before = frame
        for error in failed:
            raise error

    @contextmanager
    def _open(self) -> "Iterator[tuple[InputContainer, VideoStream]]":
        import av

        # opening may decode a frame already; up to four times the limit the refusal is ours
        limits = {"max_pixels": str(4 * self.config.max_pixels)}
        try:
            with (
                _open_bytes(self.video) as file,
                av.open(
                    file,
                    options=limits,
                    container_options={
                        "format_whitelist": ",".join(self.formats),
                        "protocol_whitelist": "none",
                    },
                ) as container,
            ):
                assert isinstance(container, av.container.InputContainer)  # opened to read
                stream = _main_stream(container)
                stream.codec_context.options = limits
                yield container, stream
        except av.FFmpegError as error:
            raise RejectedImageError(
                f"unreadable: {error.strerror}; the video is damaged, incomplete or of another "
                "format"
            ) from None
        except OSError as error:
            raise _unreadable_file(error) from None


_Window = tuple["VideoFrame | None", "VideoFrame", "VideoFrame | None"]


def _open_bytes(video: Path | bytes) -> BinaryIO:
    return BytesIO(video) if isinstance(video, bytes) else video.open("rb")


def _main_stream(container: "InputContainer") -> "VideoStream":
    """The largest track; a cover or a preview is one only where there is no other."""
    from av.stream import Disposition

    aside = Disposition.attached_pic | Disposition.timed_thumbnails

    def rank(stream: "VideoStream") -> tuple[bool, int]:
        context = stream.codec_context
        return not stream.disposition & aside, context.width * context.height

    if not container.streams.video:
        raise RejectedImageError("unreadable: the file has no video; remove it")
    readable = [stream for stream in container.streams.video if stream.codec_context is not None]
    if not readable:
        raise RejectedImageError(
            "unreadable: the coding of the video is not known; export it in another"
        )
    return max(readable, key=rank)  # of equal ones the first


def _pixel_aspect(stream: "VideoStream") -> Fraction:
    aspect = stream.sample_aspect_ratio
    return aspect if aspect is not None and aspect > 0 else Fraction(1)


def _unreadable_file(error: OSError) -> RejectedImageError:
    return RejectedImageError(
        f"unreadable_file: it cannot be read ({error.strerror}); check its rights"
    )


def _shrink(frame: "VideoFrame") -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Scale a frame to grey float32 `(32, 32)`."""
    small = frame.to_ndarray(format="gray", width=_SIDE, height=_SIDE, interpolation="AREA")
    return small.astype(np.float32)
