"""What a player shows of one frame that FFmpeg decoded: uint8 RGB, upright, with square pixels.

Five things that a file leaves to its player, in this order:

- Interlaced frames hold two moments in alternate lines. `bwdif` computes the lines of one moment
  from the frame and its neighbours; what stands still keeps all its lines.
- Luminance without colours (4:0:0) of limited range, 16 to 235, is expanded. libswscale does that
  for all formats but grey ones: it takes these for full range whatever they say. A stream that
  says nothing of its grey is taken as it is.
- Transparent pixels are shown over black: what lies under them is not meant to be seen.
- Pixels that are not square are made so (`sonoray.images.pixel_aspect`).
- The display matrix turns and mirrors; phones leave that to the player.
"""

from fractions import Fraction
from typing import TYPE_CHECKING, cast

import numpy as np

from sonoray.images.decode import Pixels
from sonoray.images.pixel_aspect import square_pixels
from sonoray.images.transparency import over_black

if TYPE_CHECKING:
    from av import VideoFrame

_LIMITED = 1
"""FFmpeg's number of the colour range (AVCOL_RANGE_MPEG)."""
_EXPANDED = np.clip(np.rint((np.arange(256) - 16) * (255 / 219)), 0, 255).astype(np.uint8)


def show(
    frame: "VideoFrame",
    *,
    before: "VideoFrame | None",
    after: "VideoFrame | None",
    aspect: Fraction,
    max_pixels: int,
) -> Pixels:
    """Bring a decoded frame to what a player shows.

    Args:
        frame: the frame.
        before: the one shown before it, if any.
        after: the one shown after it, if any.
        aspect: width of a pixel divided by its height.
        max_pixels: most pixels of a picture.

    Returns:
        uint8 `(H, W, 3)` RGB.

    Raises:
        RejectedImageError: it has too many pixels once they are square.
    """
    whole = _deinterlace(before, frame, after) if frame.interlaced_frame else frame
    pixels = square_pixels(_to_rgb(whole), aspect, max_pixels=max_pixels)
    return _turn(pixels, frame)


def _deinterlace(
    before: "VideoFrame | None", frame: "VideoFrame", after: "VideoFrame | None"
) -> "VideoFrame":
    """Fill the lines of the later moment with what was there at the first."""
    from av.filter import Graph

    def kind(each: "VideoFrame") -> tuple[int, int, str]:
        return each.width, each.height, each.format.name

    # an end of a video has one neighbour; taken for both it tells what moves and what stands still
    alike = [each if each and kind(each) == kind(frame) else None for each in (before, after)]
    near = [alike[0] or alike[1] or frame, frame, alike[1] or alike[0] or frame]
    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000)
    )
    filtered, sink = graph.add("bwdif", "mode=send_frame:deint=all"), graph.add("buffersink")
    graph.link_nodes(source, filtered, sink).configure()
    for each in near:
        graph.vpush(each)
    graph.vpush(None)
    graph.vpull()
    return graph.vpull()


def is_transparent(frame: "VideoFrame") -> bool:
    """Whether some of a frame's pixels are not wholly to be seen."""
    return _has_alpha(frame) and bool((frame.to_ndarray(format="rgba")[..., 3] < 255).any())


def _has_alpha(frame: "VideoFrame") -> bool:
    return any(component.is_alpha for component in frame.format.components)


def _to_rgb(frame: "VideoFrame") -> Pixels:
    components, has_alpha = frame.format.components, _has_alpha(frame)
    is_grey = (
        len(components) - has_alpha == 1
        and not frame.format.is_rgb
        and not frame.format.has_palette
    )
    stored = frame.to_ndarray(format="rgba" if has_alpha else "rgb24").astype(np.uint8, copy=False)
    pixels: Pixels = stored[..., :3]
    if is_grey and frame.color_range == _LIMITED:
        pixels = _EXPANDED[pixels]
    return over_black(pixels, stored[..., 3]) if has_alpha else pixels


def _turn(pixels: Pixels, frame: "VideoFrame") -> Pixels:
    """Turn and mirror a picture as the frame's display matrix says.

    The matrix maps (x, y), y down, to (a x + c y, b x + d y): ISO/IEC 14496-12, 6.2.2. An angle
    between counts as the nearest multiple of 90 degrees.
    """
    matrix = cast("bytes | None", frame.side_data.get("DISPLAYMATRIX"))  # not in PyAV's stubs
    if matrix is None:
        return pixels
    (a, b), (c, d) = np.frombuffer(matrix, np.int32).reshape(3, 3)[:2, :2].tolist()
    if abs(b) > abs(a):
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    return np.ascontiguousarray(pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])
