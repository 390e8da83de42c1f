"""Frames of the loops that studies name, decoded ahead in guarded processes.

What the sources of folders and of tables share: which files are loops, how their frames become
images, and what of it decides about the result. A loop is a video, or what
`sonoray.images.loops` reads beside them.
"""

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from sonoray.images.decode import RejectedImageError
from sonoray.images.frames import Loop
from sonoray.images.loops import DECODERS, read_loop, suffix_of
from sonoray.images.sandbox import GuardedPool
from sonoray.images.video import VideoConfig
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
S = TypeVar("S")


def is_video(name: str) -> bool:
    """Whether a file's name says that it stands for frames."""
    return bool(suffix_of(name))


def decoding(config: VideoConfig) -> dict[str, Any]:
    """What decides about the frames: what is taken and accepted, and what decodes."""
    decoders = {name: version(name) for name in DECODERS}
    return {"video": config.model_dump(mode="json"), "decoders": decoders}


def with_loops(
    studies: Iterable[S],
    videos: Callable[[S], Mapping[str, Sequence[Path]]],
    build: Callable[[S, Loops], RawStudy],
    config: VideoConfig,
) -> Iterator[RawStudy]:
    """Build studies in their order, the videos of the next ones being decoded meanwhile.

    Args:
        studies: whatever the source knows of each.
        videos: the files of each video of a study, by the reference that its frames shall have.
        build: makes the study of its decoded videos.
        config: which frames are taken, and what is accepted.
    """
    workers = os.cpu_count() or 1
    pending: deque[tuple[S, dict[str, Future[Loop]]]] = deque()
    with GuardedPool(
        workers=workers,
        memory_bytes=config.worker_memory_bytes,
        timeout_s=config.worker_timeout_s,
    ) as pool:

        def num_loops() -> int:
            return sum(len(loops) for _, loops in pending)

        def finish() -> RawStudy:
            study, loops = pending.popleft()
            return build(study, {ref: _cine(ref, loop) for ref, loop in loops.items()})

        for study in studies:
            loops = {
                ref: pool.submit(read_loop, paths, config) for ref, paths in videos(study).items()
            }
            pending.append((study, loops))
            # a study may have many loops, whose frames wait decoded
            while len(pending) > 1 and max(len(pending), num_loops()) > workers:
                yield finish()
        while pending:
            yield finish()


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
