"""Animated WebP and series of PGM pictures, through Pillow.

FFmpeg as it comes with PyAV does not read the first, and a series of numbered files is what many
research scanners export: `0001.pgm`, `0002.pgm`, each one frame. PGM says which value is white, so
that 16 bits leave no doubt.

Run it in a process of `sonoray.images.sandbox`.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from sonoray.images.boxes.grey_values import to_grey
from sonoray.images.decode import Pixels, RejectedImageError
from sonoray.images.frames import Loop, take_frames
from sonoray.images.transparency import LAID_OVER_BLACK, over_black
from sonoray.images.video import VideoConfig

_NOT_DECODED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    UnidentifiedImageError,
    Image.DecompressionBombError,
)


def read_webp(path: Path, config: VideoConfig) -> Loop:
    """Read the chosen frames of a WebP file, which may be a still.

    Returns:
        Frames of uint8 `(H, W, 3)`; transparent pixels are black.

    Raises:
        RejectedImageError: it is damaged or too large.
    """
    with _open(path, "WEBP", config) as image:
        count = getattr(image, "n_frames", 1)
        if count > config.max_length:
            raise RejectedImageError(
                f"too_many_frames: {count:,}, at most {config.max_length:,}; cut it or raise "
                "video.max_length"
            )

        def load(index: int) -> None:
            try:
                image.seek(index)
                image.load()
            except _NOT_DECODED as error:
                raise _damaged(error) from None

        notes: dict[str, None] = {}
        starts: list[int | None] = []
        last = 0
        for index in range(count):
            load(index)
            starts.append(image.info.get("timestamp"))
            last = image.info.get("duration", 0)
        duration_s = ((starts[-1] or 0) + last) / 1000
        if duration_s > config.max_duration_s:
            raise RejectedImageError(
                f"too_long: {duration_s:.0f} s, at most {config.max_duration_s:g}; cut it or raise "
                "video.max_duration_s"
            )

        def read(index: int) -> Pixels:
            load(index)
            channels = np.asarray(image.convert("RGBA"))
            if (channels[..., 3] < 255).any():
                notes[LAID_OVER_BLACK] = None
            return over_black(channels[..., :3], channels[..., 3])

        by_change = config.sampling == "change"
        frames = take_frames(read, starts, config.max_frames, by_change=by_change, last=last)
        return Loop(frames=frames, notes=tuple(notes))


def read_series(paths: Sequence[Path], config: VideoConfig) -> Loop:
    """Read the chosen frames of PGM or PPM files that are one loop, in their order.

    Returns:
        Frames of uint8 `(H, W)` or `(H, W, 3)`.

    Raises:
        RejectedImageError: one of the chosen is damaged or too large, or there are too many.
    """
    if len(paths) > config.max_length:
        raise RejectedImageError(
            f"too_many_frames: {len(paths):,}, at most {config.max_length:,}; cut it or raise "
            "video.max_length"
        )

    def read(index: int) -> Pixels:
        with _open(paths[index], "PPM", config) as image:
            try:
                values = np.asarray(
                    image if image.mode in ("L", "RGB", "I") else image.convert("L")
                )
            except _NOT_DECODED as error:
                raise _damaged(error) from None
        # Pillow brings 8 bits to 255 and deeper ones to 65,535, whatever the header's white is
        return to_grey(values, (0, 65_535)) if values.dtype != np.uint8 else values

    by_change = config.sampling == "change"
    return Loop(
        frames=take_frames(read, [None] * len(paths), config.max_frames, by_change=by_change)
    )


def _open(path: Path, form: str, config: VideoConfig) -> Image.Image:
    try:
        image = Image.open(path, formats=(form,))
    except _NOT_DECODED as error:
        raise _damaged(error) from None
    if image.width * image.height > config.max_pixels:
        image.close()
        raise RejectedImageError(
            f"too_many_pixels: {image.width} x {image.height}, at most {config.max_pixels:,}; "
            "scale it down or raise video.max_pixels"
        )
    return image


def _damaged(error: Exception) -> RejectedImageError:
    if isinstance(error, OSError) and error.errno:
        return RejectedImageError(
            f"unreadable_file: it cannot be read ({error.strerror}); check its rights"
        )
    return RejectedImageError("unreadable: the picture is damaged, incomplete or of another format")
