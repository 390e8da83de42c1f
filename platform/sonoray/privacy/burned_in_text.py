"""Text that a scanner burned into a picture: where it stands, and how it is covered.

Names, numbers and dates are drawn in thin strokes of even width that stand out from what is around
them with sharp edges, in components of like height beside each other. Speckle is blurred by the
scanner's point spread, tissue is broad, ticks and calipers stand alone. So, in four steps:

1. a white top-hat keeps what is thinner than a stroke in some direction: the plane less its opening
   with a short line, horizontal or vertical. Planes are the brightness, its negative (dark text)
   and, in colour pictures, the saturation;
2. at four contrasts, connected components of the right height are glyphs, or words whose letters
   touch;
3. glyphs beside each other, of like height and brightness, with a common top or baseline, are a
   line. Without the common edge a line would run on along bright tissue;
4. a line is text where a logistic score of six measures says so: number of glyphs, length, contrast
   over that of the picture's own texture, sharpness of the edges, strokes per length, and how far
   tops or baselines scatter. A line that better ones cover whole is left out.

What a colour Doppler draws is thin, bright and sharp as well. Its colours run from one to another,
where those of text are one, so glyphs in areas of mixed colours are left out (`_colour_flow`).

`_WEIGHTS` were fitted to 71,000 candidate lines on pictures of BUSI, the phantom and BUS-BRA's odd
cases, with and without rendered text; what is told of the finder was measured on others.

Single letters, text above 52 pixels or with strokes above 8, and handwriting are not looked for.
What it finds and what it takes for text is measured by `bench/burned_in_text.py`, with the figures
in docs/results.md. Nothing but NumPy and SciPy, no weights from elsewhere.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from sonoray.images.decode import Pixels

FILL = 128
"""What covers text. Black would pass for fluid and white for calcium or air; an even grey without
speckle is nothing that tissue shows."""

_STROKE = 9
"""Pixels: strokes are thinner."""
_CONTRASTS = (40, 64, 100, 150)
"""Grey levels by which strokes stand out. The lowest finds grey text on black; over bright speckle
text comes apart from it at the higher ones alone."""
_HEIGHTS = (4, 52)
"""Lowest and highest glyph, pixels: a lower-case letter of 8 point text, and a capital of 48."""
_STRONG_SHARE = 0.25
"""Of a glyph's pixels, at least so many stand out by 1.6 times the contrast: speckle hardly does,
as its peaks fall off exponentially."""
_MAX_GLYPHS = 800
"""Strongest glyphs that are compared in pairs."""
_SATURATED = 40
"""Difference of the channels from which a pixel is coloured."""
_CORE = 5
"""Pixels: side of the smallest square that colour flow fills. The coloured fringes of antialiased
text are thinner."""
_REACH = 15
"""Pixels: side of the window in which colours are compared, and how far flow reaches around a core,
which takes in its twigs."""
_MIXED = 0.15
"""Standard deviation, in a window, of a channel's share of the saturation above which colours are
mixed. Antialiasing and JPEG leave coloured text below it."""
_SHORTEST = 1.2
"""Length of a line over its height."""
_SCATTER = 0.25
"""Of the higher of two glyphs, plus a pixel: how far apart tops or baselines may be."""
_MOST_SCATTER = 0.2
"""Of a line's height: by how much its tops and its baselines may both scatter."""
_TALLEST = 1.5
"""Extent of a line, from its highest top to its lowest bottom, over its height."""
_DENSEST = 1.7
"""Strokes per length above which more say nothing: bright speckle has up to 4."""
_WEIGHTS = np.array([1.4, 1.6, 3.6, 3.4, 7.1, -4.2])
"""Of the measures in the order of `_score`."""
_BIAS = -10.6
_THRESHOLD = 1.5
"""Score from which a line is text: 2 % of the fitted pictures without text have one that passes. A
string has several chances, as it is a candidate at several contrasts."""

_EIGHT_NEIGHBOURS = np.ones((3, 3), bool)


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Box:
    """A rectangle in pixels; `right` and `lower` are the first outside."""

    upper: int
    left: int
    lower: int
    right: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Glyphs:
    """Components that may be letters, each array (N,)."""

    left: NDArray[Any]
    upper: NDArray[Any]
    right: NDArray[Any]
    lower: NDArray[Any]
    area: NDArray[Any]
    """Pixels of ink."""
    strokes: NDArray[Any]
    """Runs of ink, row by row: what a pen crosses."""
    level: NDArray[Any]
    """Mean of the plane."""
    contrast: NDArray[Any]
    """Mean by which the ink stands out."""
    sharpness: NDArray[Any]
    """Mean step between neighbours over the contrast."""

    @property
    def height(self) -> NDArray[Any]:
        """In pixels."""
        height: NDArray[Any] = self.lower - self.upper
        return height


def find_text(pixels: Pixels, *, margin: float = 0.25) -> list[Box]:
    """Find lines of text.

    Args:
        pixels: uint8 `(H, W)` or `(H, W, 3)`.
        margin: by how much a box is wider than the line's ink on each side, over the line's height;
            at least 2 pixels. It takes in accents, dots and dashes, which are no glyphs.

    Returns:
        Boxes within the picture, from top to bottom. They may overlap, as where one contrast finds
        the beginning of a line and another its end.
    """
    found: list[tuple[float, Box]] = []
    flow = _colour_flow(pixels)
    for plane in _planes(pixels):
        ridges = _top_hat(plane)
        steps = _steps(plane)
        texture = _texture(ridges)
        for contrast in _CONTRASTS:
            glyphs = _find_glyphs(plane, ridges, steps, flow, contrast)
            if glyphs is not None:
                found.extend(_find_lines(glyphs, texture, margin, plane.shape))
    boxes: list[Box] = []
    covered = np.zeros(pixels.shape[:2], bool)
    for _, box in sorted(found, key=lambda each: (-each[0], each[1])):
        place = covered[box.upper : box.lower, box.left : box.right]
        if not place.all():
            place[:] = True
            boxes.append(box)
    return sorted(boxes)


def cover(pixels: Pixels, boxes: list[Box]) -> Pixels:
    """Return a copy of `(H, W)` or `(H, W, 3)` pixels whose boxes are filled with `FILL`."""
    covered = pixels.copy()
    for box in boxes:
        covered[box.upper : box.lower, box.left : box.right] = FILL
    return covered


def _planes(pixels: Pixels) -> Iterator[Pixels]:
    if pixels.ndim == 2:
        yield pixels
        yield np.invert(pixels)
        return
    _, brightest, saturation = _split(pixels)
    yield brightest
    yield np.invert(brightest)
    if (saturation >= _SATURATED).any():
        yield saturation


def _split(pixels: Pixels) -> tuple[tuple[Pixels, ...], Pixels, Pixels]:
    """Channels of a colour picture, the brightest of them and the saturation, each (H, W)."""
    # plane by plane: a reduction over the last axis of three takes ten times as long
    red, green, blue = (np.ascontiguousarray(pixels[..., channel]) for channel in range(3))
    brightest = np.maximum(np.maximum(red, green), blue)
    saturation = brightest - np.minimum(np.minimum(red, green), blue)
    return (red, green, blue), brightest, saturation


def _top_hat(plane: Pixels) -> Pixels:
    """By how much each pixel stands out across the thinner direction."""
    return plane - np.minimum(_open(plane), _open(plane.T).T)


def _open(plane: Pixels) -> Pixels:
    """Opening with a horizontal line of `_STROKE` pixels."""
    eroded = _slide(plane, np.minimum, 255)
    return _slide(eroded[:, ::-1], np.maximum, 0)[:, ::-1]


def _slide(plane: Pixels, extreme: np.ufunc, outside: int) -> Pixels:
    """The extreme of each pixel and the `_STROKE` - 1 to its right, by doubling the window."""
    width = plane.shape[1]
    window = np.pad(plane, ((0, 0), (0, _STROKE - 1)), constant_values=outside)
    reach = 1
    while reach < _STROKE:
        step = min(reach, _STROKE - reach)
        window = extreme(window[:, :-step], window[:, step:])
        reach += step
    slid: Pixels = window[:, :width]
    return slid


def _steps(plane: Pixels) -> Pixels:
    """Difference between the highest and the lowest of the 3 x 3 neighbours."""
    padded = np.pad(plane, 1, mode="edge")
    high = np.maximum(np.maximum(padded[:-2], padded[1:-1]), padded[2:])
    high = np.maximum(np.maximum(high[:, :-2], high[:, 1:-1]), high[:, 2:])
    low = np.minimum(np.minimum(padded[:-2], padded[1:-1]), padded[2:])
    low = np.minimum(np.minimum(low[:, :-2], low[:, 1:-1]), low[:, 2:])
    steps: Pixels = high - low
    return steps


def _texture(ridges: Pixels) -> float:
    """What nine of ten pixels do not exceed: how much the picture itself stands out."""
    counts = np.cumsum(np.bincount(ridges.ravel(), minlength=256))
    return float(np.searchsorted(counts, 0.9 * ridges.size))


def _colour_flow(pixels: Pixels) -> NDArray[np.bool_]:
    """Where a colour Doppler draws, (H, W): around solid areas of mixed colours."""
    flow = np.zeros(pixels.shape[:2], bool)
    if pixels.ndim == 2:
        return flow
    channels, brightest, saturation = _split(pixels)
    darkest = brightest - saturation
    coloured = saturation >= _SATURATED
    cores = ndimage.minimum_filter(coloured, _CORE)
    if not cores.any():
        return flow

    def mean(values: NDArray[Any]) -> NDArray[Any]:
        averaged: NDArray[Any] = ndimage.uniform_filter(values, _REACH)
        return averaged

    share = np.maximum(mean(coloured.astype(np.float32)), 1e-6)
    scale = coloured / np.maximum(saturation, 1).astype(np.float32)
    for channel in channels:
        values = (channel - darkest) * scale  # no grey: what an edge or tissue adds is none
        variance = mean(values**2) / share - (mean(values) / share) ** 2
        flow |= cores & (variance > _MIXED**2)
    reached: NDArray[np.bool_] = ndimage.maximum_filter(flow, 2 * _REACH + 1)
    return reached


def _find_glyphs(
    plane: Pixels, ridges: Pixels, steps: Pixels, flow: NDArray[np.bool_], min_contrast: int
) -> _Glyphs | None:
    """Components of what stands out by `min_contrast`; None where there is no glyph."""
    ink = ridges >= min_contrast
    labels, count = ndimage.label(ink, structure=_EIGHT_NEIGHBOURS)
    y, x = np.nonzero(ink)
    owner = labels[y, x] - 1
    contrasts = ridges[y, x].astype(np.float32)
    area = np.bincount(owner, minlength=count)

    def total(values: NDArray[Any]) -> NDArray[Any]:
        return np.bincount(owner, values, minlength=count)

    left, upper = np.full(count, plane.shape[1]), np.full(count, plane.shape[0])
    right, lower = np.zeros(count, int), np.zeros(count, int)
    np.minimum.at(left, owner, x)
    np.minimum.at(upper, owner, y)
    np.maximum.at(right, owner, x + 1)
    np.maximum.at(lower, owner, y + 1)
    height = lower - upper
    strong = total(contrasts >= 1.6 * min_contrast)
    usable = np.flatnonzero(
        (height >= _HEIGHTS[0])
        & (height <= _HEIGHTS[1])
        & (right - left <= 25 * height)
        & (area >= 5)
        & (strong >= _STRONG_SHARE * area)
        & (total(flow[y, x]) < 0.5 * area)
    )
    if not len(usable):
        return None
    chosen = usable[np.argsort(-strong[usable], kind="stable")[:_MAX_GLYPHS]]
    begins = np.ones(len(x), bool)
    begins[1:] = (x[1:] != x[:-1] + 1) | (y[1:] != y[:-1])
    contrast = total(contrasts)
    return _Glyphs(
        left=left[chosen],
        upper=upper[chosen],
        right=right[chosen],
        lower=lower[chosen],
        area=area[chosen],
        strokes=total(begins)[chosen],
        level=(total(plane[y, x]) / area)[chosen],
        contrast=(contrast / area)[chosen],
        sharpness=(total(steps[y, x]) / contrast)[chosen],
    )


def _find_lines(
    glyphs: _Glyphs, texture: float, margin: float, shape: tuple[int, ...]
) -> Iterator[tuple[float, Box]]:
    """Yield score and box of those lines that are text."""
    count, line_of = connected_components(_neighbours(glyphs), directed=False)
    order = np.lexsort((glyphs.height, line_of))
    ends = np.cumsum(np.bincount(line_of, minlength=count))
    size = np.diff(ends, prepend=0)
    # the second highest of three or more: one bracket or a touching neighbour says little
    height = glyphs.height[order][ends - 1 - (size >= 3)]

    def extreme(values: NDArray[Any], pick: np.ufunc) -> NDArray[Any]:
        picked: NDArray[Any] = pick.reduceat(values[order], ends - size)
        return picked

    def mean(values: NDArray[Any]) -> NDArray[Any]:
        weights = np.bincount(line_of, glyphs.area, minlength=count)
        return np.bincount(line_of, values * glyphs.area, minlength=count) / weights

    def deviation(values: NDArray[Any]) -> NDArray[Any]:
        squares = mean(values.astype(float) ** 2) - mean(values) ** 2
        spread: NDArray[Any] = np.sqrt(np.maximum(squares, 0))
        return spread

    left, right = extreme(glyphs.left, np.minimum), extreme(glyphs.right, np.maximum)
    upper, lower = extreme(glyphs.upper, np.minimum), extreme(glyphs.lower, np.maximum)
    length = right - left
    scatter = np.minimum(deviation(glyphs.upper), deviation(glyphs.lower)) / height
    scores = _score(
        size=size,
        length=length / height,
        contrast=mean(glyphs.contrast) / (texture + 8),
        sharpness=mean(glyphs.sharpness),
        strokes=np.bincount(line_of, glyphs.strokes, minlength=count) / length,
        scatter=scatter,
    )
    room = np.maximum(2, np.rint(margin * height)).astype(int)
    is_line = (
        (length >= _SHORTEST * height)
        & (lower - upper <= _TALLEST * height)
        & (scatter <= _MOST_SCATTER)
    )
    for i in np.flatnonzero(is_line & (scores > _THRESHOLD)):
        box = Box(
            left=max(int(left[i] - room[i]), 0),
            upper=max(int(upper[i] - room[i]), 0),
            right=min(int(right[i] + room[i]), shape[1]),
            lower=min(int(lower[i] + room[i]), shape[0]),
        )
        yield float(scores[i]), box


def _neighbours(glyphs: _Glyphs) -> coo_matrix:
    """Which glyphs stand beside each other in one line, (N, N)."""

    def pairs(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        return values[:, None], values[None, :]

    gap = np.maximum(*pairs(glyphs.left)) - np.minimum(*pairs(glyphs.right)) + 1
    overlap = np.minimum(*pairs(glyphs.lower)) - np.maximum(*pairs(glyphs.upper))
    low, high = np.minimum(*pairs(glyphs.height)), np.maximum(*pairs(glyphs.height))
    tops, baselines = np.subtract(*pairs(glyphs.upper)), np.subtract(*pairs(glyphs.lower))
    apart = np.minimum(np.abs(tops), np.abs(baselines))
    one, other = pairs(glyphs.level)
    beside = (gap <= 0.8 * high + 1) & (overlap >= 0.5 * low)
    alike = (high <= 2.6 * low) & (np.abs(one - other) <= 45)
    first, second = np.nonzero(beside & alike & (apart <= _SCATTER * high + 1))
    size = len(glyphs.left)
    return coo_matrix((np.ones(len(first), bool), (first, second)), shape=(size, size))


def _score(
    *,
    size: NDArray[Any],
    length: NDArray[Any],
    contrast: NDArray[Any],
    sharpness: NDArray[Any],
    strokes: NDArray[Any],
    scatter: NDArray[Any],
) -> NDArray[Any]:
    """Log odds that a line is text, by measures (L,)."""
    measures = (
        np.log(size),
        np.log(length),
        np.log(contrast),
        sharpness,
        np.log(np.minimum(strokes + 0.1, _DENSEST)),
        scatter,
    )
    scores: NDArray[Any] = _BIAS + _WEIGHTS @ np.stack(measures)
    return scores
