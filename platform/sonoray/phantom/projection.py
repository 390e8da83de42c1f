"""A chest in projection: a body that rays pass through, from front to back, and what may be found.

What a ray meets is added up along its way: body wall, lungs (which hold little), heart, spine,
ribs, and the finding. Dense is bright, as on a film. It is a picture with findings of known kind
and place and no model of an X-ray tube: the second modality on which a road is tried end to end.
Drawing takes about 3 ms at 192 pixels.

Coordinates: x from -1 (the patient's right, on the left of the image) to 1, y from 0 (top) to 1.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sonoray.phantom.lesion import Side
from sonoray.phantom.physics import Gray

Plane = NDArray[np.floating[Any]]
"""Values over the image, or along one of its sides."""

Number = float | np.floating[Any]

_LUNG_X, _LUNG_Y = 0.42, 0.44
_LUNG_WIDTH, _LUNG_HEIGHT = 0.31, 0.37
_SHARP = 40.0
"""Steepness of edges, over the width of the image."""
_NUM_RIBS = 8


class ChestFinding(StrEnum):
    """What is found, as ChestX-ray14 calls it."""

    NODULE = "Nodule"
    EFFUSION = "Effusion"
    PNEUMOTHORAX = "Pneumothorax"
    CONSOLIDATION = "Consolidation"
    CARDIOMEGALY = "Cardiomegaly"


@dataclass(frozen=True, kw_only=True, slots=True)
class ChestTruth:
    """What a study shows."""

    finding: ChestFinding | None
    side: Side
    """Of the finding; of one of the heart it means nothing."""
    size: float
    """0 to 1, from small to large."""
    x: float
    """-1 to 1: where in its lung, across."""
    y: float
    """-1 to 1: where in its lung, from top to bottom."""


def draw_chest(
    truth: ChestTruth, rng: np.random.Generator, size: int
) -> tuple[Gray, NDArray[np.uint8]]:
    """Draw a view.

    Args:
        truth: what it shows.
        rng: draws the body around it, so that every view is another.
        size: side of the square image in pixels (S).

    Returns:
        The image and the mask of the finding, 0 or 255, both uint8 (S, S).
    """
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    x = (2 * axis - 1)[None, :] - np.float32(rng.uniform(-0.04, 0.04))
    y = axis[:, None] - np.float32(rng.uniform(-0.03, 0.03))
    wide = np.float32(rng.uniform(0.95, 1.05))
    lungs = {side: _lung(x / wide, y, side) for side in Side}
    density = 0.62 * _inside(_ellipse(x, y, 0.0, 0.62, 0.92 * wide, 0.66))
    density = density - 0.46 * sum(lungs.values())
    density += 0.10 * _clouds(rng, size) * sum(lungs.values())
    density += 0.16 * _inside(0.075 - np.abs(x) + 0 * y)
    swell = 0.16 + 0.12 * truth.size if truth.finding is ChestFinding.CARDIOMEGALY else 0.0
    reach = 0.24 + swell + np.float32(rng.uniform(-0.015, 0.015))
    heart = _inside(_ellipse(x, y, 0.08 + 0.25 * swell, 0.64, reach, 0.17 + 0.35 * swell))
    density += 0.34 * heart * _inside(0.83 - y + 0 * x)
    density += _ribs(x, y, rng)
    grain = rng.normal(0, 0.012, (size, size)).astype(np.float32)
    exposure = np.float32(rng.uniform(0.9, 1.1))
    if truth.finding is ChestFinding.CARDIOMEGALY:
        region = heart
    else:
        added, region = _finding(truth, x, y, lungs[truth.side], rng)
        density += added
    gray = np.clip((density * exposure + grain + 0.06) * 235, 0, 255).astype(np.uint8)
    return gray, np.where(region > 0.5, 255, 0).astype(np.uint8)


def _finding(
    truth: ChestTruth,
    x: Plane,
    y: Plane,
    lung: Plane,
    rng: np.random.Generator,
) -> tuple[Plane, Plane]:
    """What a finding in a lung adds to the density (S, S), and where it is, 0 to 1."""
    sign = -1.0 if truth.side is Side.RIGHT else 1.0
    centre_x = sign * _LUNG_X + 0.55 * _LUNG_WIDTH * truth.x
    centre_y = _LUNG_Y + 0.55 * _LUNG_HEIGHT * truth.y
    if truth.finding is ChestFinding.NODULE:
        radius = 0.05 + 0.05 * truth.size
        region = _inside(_ellipse(x, y, centre_x, centre_y, radius, 0.7 * radius)) * lung
        return 0.34 * region, region
    if truth.finding is ChestFinding.CONSOLIDATION:
        reach = 0.14 + 0.10 * truth.size
        blob = _ellipse(x, y, centre_x, centre_y, reach, 0.75 * reach)
        ragged = blob + 0.1 * (_clouds(rng, len(y)) - 0.5)
        region = np.asarray(_inside(0.35 * ragged) * lung, np.float32)
        return 0.30 * region, region
    if truth.finding is ChestFinding.EFFUSION:
        level = 0.70 - 0.16 * truth.size - 0.14 * np.abs(np.abs(x) - 0.28)
        region = np.asarray(_inside(y - level) * lung, np.float32)
        return 0.42 * region, region
    if truth.finding is ChestFinding.PNEUMOTHORAX:
        edge = _LUNG_X + 0.14 - 0.14 * truth.size + 0.16 * (y - 0.2)
        region = np.asarray(_inside(sign * x - edge) * lung, np.float32)
        line = np.exp(-(((sign * x - edge) / 0.015) ** 2)) * lung
        return np.asarray(0.16 * line - 0.12 * region, np.float32), region
    nothing = np.zeros_like(lung)
    return nothing, nothing


def _lung(x: Plane, y: Plane, side: Side) -> Plane:
    """Where a lung is (S, S), 0 to 1; the diaphragm is higher on the right."""
    sign = -1.0 if side is Side.RIGHT else 1.0
    body = _inside(_ellipse(x, y, sign * _LUNG_X, _LUNG_Y, _LUNG_WIDTH, _LUNG_HEIGHT))
    dome = (0.72 if side is Side.RIGHT else 0.75) + 0.35 * (np.abs(x) - _LUNG_X) ** 2
    return np.asarray(body * _inside(dome - y), np.float32)


def _ribs(x: Plane, y: Plane, rng: np.random.Generator) -> Plane:
    total = np.zeros(np.broadcast_shapes(x.shape, y.shape), np.float32)
    start = rng.uniform(0.08, 0.12)
    for number in range(_NUM_RIBS):
        course = start + 0.095 * number + 0.16 * (np.abs(x) - 0.15)
        total += 0.09 * np.exp(-(((y - course) / 0.016) ** 2))
    return np.asarray(total * _inside(0.86 - np.abs(x) + 0 * y), np.float32)


def _clouds(rng: np.random.Generator, size: int) -> Plane:
    """A smooth random field (S, S), 0 to 1: a coarse grid, interpolated."""
    coarse = rng.uniform(size=(10, 10)).astype(np.float32)
    place = np.linspace(0, 8.999, size)
    low = place.astype(int)
    part = ((1 - np.cos(np.pi * (place - low))) / 2).astype(np.float32)
    rows = coarse[low] * (1 - part)[:, None] + coarse[low + 1] * part[:, None]
    found: Plane = rows[:, low] * (1 - part) + rows[:, low + 1] * part
    return found


def _ellipse(x: Plane, y: Plane, cx: float, cy: float, rx: Number, ry: Number) -> Plane:
    """About the distance inside of an ellipse, negative outside."""
    level = np.hypot((x - np.float32(cx)) / np.float32(rx), (y - np.float32(cy)) / np.float32(ry))
    return np.asarray((1 - level) * min(float(rx), float(ry)), np.float32)


def _inside(distance: Plane) -> Plane:
    """0 outside and 1 inside, with a soft edge."""
    return np.asarray(1 / (1 + np.exp(-np.clip(distance * _SHARP * 2, -30, 30))), np.float32)
