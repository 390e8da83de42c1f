"""Brushes of the anatomy: soft edges, ridges, undulating boundaries, random fields.

All work on the beam space of a `Grid` in float32, (D, L) for D depth samples by L beams.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from sonoray.phantom.physics import Floats, Grid, Tissue


def below(level_mm: Floats, edge_mm: float) -> Floats:
    """Return 0 above and 1 below `level_mm` = 0, with a ramp of `edge_mm`."""
    ramp: Floats = np.clip(level_mm / np.float32(edge_mm) + np.float32(0.5), 0, 1)
    return ramp


def line(distance_mm: Floats, thickness_mm: float, height: float) -> Floats:
    """Return a ridge of `height` along `distance_mm` = 0."""
    ratio = distance_mm / np.float32(thickness_mm)
    ridge: Floats = np.float32(height) * np.exp(-np.minimum(ratio * ratio, 30))
    return ridge


def ellipse(x_mm: Floats, z_mm: Floats, half_width: float, half_height: float) -> Floats:
    """Return about the distance in mm from an ellipse, negative inside."""
    level = np.hypot(x_mm / np.float32(half_width), z_mm / np.float32(half_height))
    distance: Floats = (level - 1) * np.float32(half_height)
    return distance


def wave(grid: Grid, rng: np.random.Generator, amplitude_mm: float) -> Floats:
    """Return the undulation of a boundary along the beams, (1, L)."""
    across = np.linspace(0, 2 * np.pi, grid.x_mm.shape[1])[None, :]
    height = sum(
        rng.normal() / order * np.sin(order * across * 0.7 + rng.uniform(0, 2 * np.pi))
        for order in (1, 2, 3)
    )
    return np.asarray(height * (amplitude_mm / 1.2), np.float32)


def septa(grid: Grid, rng: np.random.Generator, scale_z_mm: float, scale_x_mm: float) -> Floats:
    """Return thin curved sheets (D, L), 0..1: the zero crossings of a smooth random field."""
    return line(texture(grid, rng, 1.0, scale_z_mm, scale_x_mm), 0.2, 1.0)


def texture(
    grid: Grid,
    rng: np.random.Generator,
    strength_db: float,
    scale_mm: float,
    scale_x_mm: float | None = None,
) -> Floats:
    """Return a smooth random field (D, L) with about `strength_db` of standard deviation.

    A coarse random grid, interpolated with raised cosines: far faster than filtering a full one,
    and without matrix products, whose threads fight over the cores of busy workers.
    """
    probe = grid.probe
    num_rows = max(2, round(probe.depth_mm / scale_mm))
    num_columns = max(2, round(probe.side_mm / (scale_x_mm or scale_mm)))
    coarse = rng.standard_normal((num_rows, num_columns), dtype=np.float32)
    coarse *= np.float32(1.6 * strength_db)
    top, down = _knots(grid.x_mm.shape[0], num_rows)
    left, right = _knots(grid.x_mm.shape[1], num_columns)
    rows: Floats = coarse[top] + down[:, None] * (coarse[top + 1] - coarse[top])
    start = rows[:, left]
    field: Floats = start + right * (rows[:, left + 1] - start)
    return field


@cache
def _knots(num_samples: int, num_knots: int) -> tuple[NDArray[np.int64], Floats]:
    """For each sample the knot before it, and the share (num_samples,) of the next one."""
    position = np.linspace(0, num_knots - 1, num_samples)
    before = np.minimum(position.astype(np.int64), num_knots - 2)
    share = 0.5 - 0.5 * np.cos(np.pi * (position - before))
    return before, share.astype(np.float32)


def add_interface(
    tissue: Tissue,
    distance_mm: Floats,
    thickness_mm: float,
    amplitude: float,
    rng: np.random.Generator,
) -> None:
    """Add a coherent reflector at `distance_mm` = 0, seen where it lies across the beam."""
    probe = tissue.grid.probe
    down = np.diff(distance_mm, axis=0, append=distance_mm[-1:])
    across = np.clip(down * np.float32(len(down) / probe.depth_mm), -1, 1)
    across *= across * across
    patchy = np.exp(texture(tissue.grid, rng, 0.7, probe.depth_mm / 14))
    tissue.specular += patchy * across * across * line(distance_mm, thickness_mm, amplitude)
