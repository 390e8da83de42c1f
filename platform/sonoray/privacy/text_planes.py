"""The planes of a picture in which burned-in text is looked for, and what stands out in them.

The brightness, its negative (dark text) and, in colour pictures, the saturation. A white top-hat
keeps what is thinner than a stroke: the plane less its opening with a short line, horizontal or
vertical. Colour flow, whose colours run from one to another where those of text are one, is told
apart. Nothing but NumPy and SciPy; see `burned_in_text` for the whole.
"""

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from sonoray.images.decode import Pixels

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


def iter_planes(pixels: Pixels) -> Iterator[Pixels]:
    """Yield the planes to search, each uint8 (H, W)."""
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


def top_hat(plane: Pixels, stroke: int) -> Pixels:
    """By how much each pixel stands out across the thinner direction, where thinner than `stroke`.

    Beyond the picture all is black: a stroke that its edge cuts is as thin as one that it does not.
    """
    lying, standing = np.ones((1, stroke), np.uint8), np.ones((stroke, 1), np.uint8)
    opened = np.minimum(
        _morph(plane, cv2.MORPH_OPEN, lying), _morph(plane, cv2.MORPH_OPEN, standing)
    )
    ridges: Pixels = plane - opened
    return ridges


def edge_steps(plane: Pixels) -> Pixels:
    """Difference between the highest and the lowest of the 3 x 3 neighbours, black beyond."""
    return _morph(plane, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))


def _morph(plane: Pixels, operation: int, kernel: Pixels) -> Pixels:
    changed = cv2.morphologyEx(
        plane, operation, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0
    )
    return changed.astype(np.uint8, copy=False)


def texture_level(ridges: Pixels) -> float:
    """What nine of ten pixels do not exceed: how much the picture itself stands out."""
    counts = cv2.calcHist([ridges], [0], None, [256], [0, 256]).ravel().astype(int)
    return float(np.searchsorted(np.cumsum(counts), 0.9 * ridges.size))


def colour_flow(pixels: Pixels) -> NDArray[np.bool_]:
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
