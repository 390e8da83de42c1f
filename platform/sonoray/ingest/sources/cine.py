"""Frames of the loops that studies name, decoded in guarded processes.

What the sources of folders and of tables share: which files are loops, how their frames become
images, and what of it decides about the result. A loop is a video, or what
`sonoray.images.loops` reads beside them.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sonoray.images.decode import RejectedImageError
from sonoray.images.frames import Loop
from sonoray.images.loops import DECODERS, read_loop, suffix_of
from sonoray.images.sandbox import GuardedPool
from sonoray.images.video import VideoConfig
from sonoray.ingest.units import Guard
from sonoray.study.raw import RawImage, RawStudy


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Cine:
    """What a video gave its study."""

    images: tuple[RawImage, ...]
    """Its chosen frames; or one image with the problem where it has none."""
    notes: tuple[str, ...] = ()
    """As `Loop.notes`."""


Loops = Mapping[str, Cine]
"""By video, what it gave."""


def is_video(name: str) -> bool:
    """Whether a file's name says that it stands for frames."""
    return bool(suffix_of(name))


def decoding(config: VideoConfig) -> dict[str, Any]:
    """What decides about the frames: what is taken and accepted, and what decodes."""
    decoders = {name: version(name) for name in DECODERS}
    return {"video": config.model_dump(mode="json"), "decoders": decoders}


def guard_of_videos(config: VideoConfig) -> Guard:
    """What the processes that decode videos may take; one waits decoded, with all its frames."""
    return Guard(
        memory_bytes=config.worker_memory_bytes, timeout_s=config.worker_timeout_s, ahead=1
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class CineUnit:
    """A study that may have videos (`sonoray.ingest.units`)."""

    listed: RawStudy
    """The study with one image for each video, of the video's reference."""
    videos: Mapping[str, Sequence[Path]]
    """The files of each video that is there, by its reference."""
    config: VideoConfig
    """Which frames are taken, and what is accepted."""

    @property
    def calls(self) -> list[Callable[[], Loop]]:
        """One for each video."""
        return [partial(read_loop, paths, self.config) for paths in self.videos.values()]

    def build(self, decoded: Sequence[Future[Loop]], pool: GuardedPool) -> RawStudy:
        """Put the frames where their videos stand, and say what was done to these."""
        del pool
        loops = {ref: _cine(ref, loop) for ref, loop in zip(self.videos, decoded, strict=True)}
        return replace(
            self.listed,
            images=tuple(
                image
                for listed in self.listed.images
                for image in (loops[listed.ref].images if listed.ref in loops else (listed,))
            ),
            remarks=Counter(self.listed.remarks) + count_remarks(loops),
        )


def digested(videos: Mapping[str, Sequence[Path]]) -> dict[str, Path]:
    """The files of videos, each by a name of its own, for a digest over all of them."""
    return {
        f"{ref}#{number}" if number else ref: path
        for ref, paths in videos.items()
        for number, path in enumerate(paths)
    }


def count_remarks(loops: Loops) -> Counter[str]:
    """What was decided about the videos of a study, as `RawStudy.remarks`."""
    return Counter(f"video: {note}" for loop in loops.values() for note in loop.notes)


def _cine(ref: str, future: Future[Loop]) -> Cine:
    try:
        loop = future.result()
    except RejectedImageError as error:
        return Cine(images=(RawImage(ref=ref, data=b"", problem=str(error)),))
    images = tuple(
        RawImage(
            # the first is called as the file is, by which a reject is found when it is accepted
            ref=f"{ref}#{frame.index}" if number else ref,
            data=frame.pixels,
            frame_index=frame.index,
            labels=loop.labels,
        )
        for number, frame in enumerate(loop.frames)
    )
    return Cine(images=images, notes=loop.notes)
