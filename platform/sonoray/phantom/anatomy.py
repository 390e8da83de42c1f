"""Organs: layered bodies that the beams meet, and the probe that each is scanned with.

- thyroid, linear probe at 9 MHz: skin, fat, strap muscles, lobe, long muscle of the neck, vertebra;
  the trachea lies on the medial and the carotid artery on the lateral side.
- breast, linear probe at 8 MHz: skin, fat with ligaments, gland, fat, pectoral muscle, chest wall.
- liver, convex probe at 3.5 MHz: skin, fat, muscle, capsule, parenchyma with vessels, diaphragm.

Every view of an organ is drawn anew, so two images of one study share the organ and not the
layers, as two planes of one organ do. The field of view of an organ is fixed, so a size in mm can
be read off the image. The right side of the patient lies on the left of the image.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from sonoray.phantom.fields import add_interface, below, ellipse, line, septa, texture, wave
from sonoray.phantom.lesion import Side
from sonoray.phantom.physics import Floats, Grid, Probe, Tissue, beam_grid

_MUSCLE = 0.7
_FAT_DB = -13.0


class Organ(StrEnum):
    """What is scanned."""

    THYROID = "thyroid"
    BREAST = "breast"
    LIVER = "liver"


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """How an organ is scanned and where its lesions lie."""

    probe: Probe
    size_bounds_mm: tuple[float, float, float, float]
    """Bounds of small, medium and large lesions."""
    bed_x_mm: tuple[float, float]
    """Range of lesion centres for the right side; mirrored for the left."""
    bed_z_mm: tuple[float, float]


_LINEAR: dict[str, Any] = {
    "depth_mm": 40.0,
    "width_mm": 40.0,
    "axial_sigma_mm": 0.15,
    "beam_sigma_mm": 0.26,
    "focus_mm": 17.0,
    "focal_length_mm": 14.0,
}
PRESETS = {
    Organ.THYROID: Preset(
        probe=Probe(frequency_mhz=9.0, **_LINEAR),
        size_bounds_mm=(5.0, 7.5, 10.5, 14.0),
        bed_x_mm=(-6.0, 1.0),
        bed_z_mm=(15.5, 19.0),
    ),
    Organ.BREAST: Preset(
        probe=Probe(frequency_mhz=8.0, **_LINEAR),
        size_bounds_mm=(6.0, 9.5, 13.5, 19.0),
        bed_x_mm=(-8.0, 8.0),
        bed_z_mm=(14.0, 18.0),
    ),
    Organ.LIVER: Preset(
        probe=Probe(
            frequency_mhz=3.5,
            depth_mm=120.0,
            radius_mm=50.0,
            half_angle_rad=0.56,
            axial_sigma_mm=0.5,
            beam_sigma_mm=0.95,
            focus_mm=60.0,
            focal_length_mm=50.0,
        ),
        size_bounds_mm=(13.0, 23.0, 34.0, 48.0),
        bed_x_mm=(-18.0, 14.0),
        bed_z_mm=(48.0, 72.0),
    ),
}


@dataclass(frozen=True, slots=True)
class Circle:
    """A place that the large vessels of the liver go around, as a mass displaces them."""

    x_mm: float
    z_mm: float
    radius_mm: float


def build_body(
    organ: Organ, side: Side, rng: np.random.Generator, *, keep_free: Circle | None = None
) -> Tissue:
    """Return a view of `organ` without a lesion."""
    grid = beam_grid(PRESETS[organ].probe)
    if organ is Organ.BREAST:  # both breasts look alike: the body mark alone tells the side
        return _build_breast(grid, rng)
    if organ is Organ.THYROID:
        return _build_thyroid(grid, side, rng)
    return _build_liver(grid, side, rng, keep_free)


def _build_breast(grid: Grid, rng: np.random.Generator) -> Tissue:
    tissue = Tissue.uniform(grid)
    gland_end = rng.uniform(23.5, 27.0)
    gland = grid.z_mm - rng.uniform(6.5, 9.0) - wave(grid, rng, 2.2)
    retro = grid.z_mm - gland_end - wave(grid, rng, 1.2)
    muscle = grid.z_mm - gland_end - rng.uniform(2.0, 3.5) - wave(grid, rng, 0.9)
    wall = grid.z_mm - rng.uniform(34.0, 36.0) - wave(grid, rng, 1.0)
    ligaments = septa(grid, rng, 5.0, 7.0)
    lobules = _FAT_DB + texture(grid, rng, 2.0, 2.5) + 15 * ligaments
    tissue.paint(below(-gland, 0.5), echo_db=lobules)
    strands = 6 * septa(grid, rng, 2.5, 6.0) + texture(grid, rng, 2.0, 1.2)
    glandular = strands - 1.5 + texture(grid, rng, 3.0, 4.0)
    tissue.paint(below(gland, 1.0) * below(-retro, 0.5), echo_db=glandular)
    tissue.paint(below(retro, 0.4), echo_db=_FAT_DB + texture(grid, rng, 2.0, 2.0))
    add_interface(tissue, retro, 0.2, 0.5, rng)
    _add_muscle(tissue, below(muscle, 0.3), rng)
    add_interface(tissue, muscle, 0.2, 0.9, rng)
    tissue.paint(below(wall, 0.3), echo_db=-20 + 7 * np.cos(wall * 2.4), attenuation=1.8)
    add_interface(tissue, wall, 0.2, 3.5, rng)
    _add_skin(tissue, rng, 1.7)
    return tissue


def _build_thyroid(grid: Grid, side: Side, rng: np.random.Generator) -> Tissue:
    x = _from_midline(grid, side)
    tissue = Tissue.uniform(grid)
    tissue.echo_db += _FAT_DB + 4 + texture(grid, rng, 3.0, 2.0) + 6 * septa(grid, rng, 2.0, 8.0)
    straps = grid.z_mm - rng.uniform(3.4, 4.6) - wave(grid, rng, 0.7)
    deep = grid.z_mm - rng.uniform(7.8, 8.8) - wave(grid, rng, 0.7) - 0.012 * (x + 3) ** 2
    _add_muscle(tissue, below(straps, 0.3) * below(-deep, 0.3), rng)
    add_interface(tissue, straps, 0.2, 1.2, rng)
    longus = ellipse(x - 1, grid.z_mm - 30, 13.0, 3.2) + wave(grid, rng, 0.6)
    _add_muscle(tissue, below(-longus, 0.5), rng)
    bone = grid.z_mm - rng.uniform(35.0, 37.0) - wave(grid, rng, 1.0)
    tissue.paint(below(bone, 0.3), echo_db=-24.0, attenuation=3.0)
    add_interface(tissue, bone, 0.25, 4.0, rng)

    lobe = ellipse(x + rng.uniform(2.0, 3.5), grid.z_mm - 17.3, 12.6, 8.6)
    lobe += wave(grid, rng, 0.5)
    parenchyma = 2.0 + texture(grid, rng, 1.2, 1.5) + texture(grid, rng, 1.0, 4.0)
    tissue.paint(below(-lobe, 0.3), echo_db=parenchyma)
    tissue.echo_db += line(lobe, 0.25, 8.0)
    add_interface(tissue, lobe, 0.2, 1.0, rng)
    for _ in range(int(rng.integers(1, 4))):  # small vessels of the lobe
        spot = np.hypot(x + rng.uniform(-6, 10), grid.z_mm - rng.uniform(12, 23))
        tissue.paint(below(rng.uniform(0.4, 0.7) - spot, 0.3), echo_db=-22.0)

    artery = np.hypot(x + rng.uniform(16.6, 17.6), grid.z_mm - rng.uniform(18, 21))
    artery -= np.float32(rng.uniform(2.6, 3.1))
    tissue.echo_db += line(artery - 0.5, 0.5, 7.0)
    tissue.paint(below(-artery, 0.3), echo_db=-30 + texture(grid, rng, 3.0, 1.5), attenuation=0.15)
    add_interface(tissue, artery, 0.25, 1.5, rng)

    trachea = np.hypot(x - rng.uniform(18.5, 20.0), (grid.z_mm - 21) * 0.9) - np.float32(8.0)
    echoes = -17 + 6 * np.cos(trachea * 3.0) + 1.2 * trachea + texture(grid, rng, 3.0, 1.5)
    tissue.paint(below(-trachea, 0.3), echo_db=echoes)  # reverberation of the air
    tissue.echo_db += line(trachea, 0.4, 12.0)
    add_interface(tissue, trachea, 0.25, 3.0, rng)
    _add_skin(tissue, rng, 1.5)
    return tissue


def _build_liver(
    grid: Grid, side: Side, rng: np.random.Generator, keep_free: Circle | None
) -> Tissue:
    x = _from_midline(grid, side)
    depth = np.broadcast_to(grid.depth_mm, x.shape)
    tissue = Tissue.uniform(grid)
    tissue.echo_db += texture(grid, rng, 1.0, 8.0) + texture(grid, rng, 1.2, 3.0)
    free: Floats = np.ones(x.shape, np.float32)
    if keep_free is not None:
        away = np.hypot(grid.x_mm - np.float32(keep_free.x_mm), grid.z_mm - keep_free.z_mm)
        free = below(away - np.float32(keep_free.radius_mm), 3.0)
    confluence, course = (rng.uniform(15, 32), rng.uniform(82, 94)), rng.uniform(2.0, 2.4)
    for _ in range(int(rng.integers(1, 4))):  # hepatic veins meet at the vena cava
        _add_vessel(tissue, x, free, confluence, course, rng, wall_db=2.0)
        course += rng.uniform(0.45, 0.65)
    hilum, course = (rng.uniform(0, 30), rng.uniform(34, 50)), rng.uniform(2.7, 3.6)
    _add_vessel(tissue, x, free, hilum, course, rng, wall_db=11.0)  # portal: bright walls
    radius = rng.uniform(75, 95)
    diaphragm = np.hypot(x - rng.uniform(8, 20), grid.z_mm - 104 + radius)
    diaphragm += wave(grid, rng, 1.5) - np.float32(radius)
    mirrored = -8 - 0.5 * np.maximum(diaphragm, 0) + texture(grid, rng, 3.0, 5.0)
    tissue.paint(below(diaphragm, 1.0), echo_db=mirrored)
    tissue.echo_db += line(diaphragm, 1.2, 12.0)
    add_interface(tissue, diaphragm, 0.8, 3.0, rng)

    capsule = depth - rng.uniform(15, 19) - wave(grid, rng, 1.2)
    muscle = depth - rng.uniform(8, 11) - wave(grid, rng, 1.0)
    _add_muscle(tissue, below(-capsule, 0.6), rng)
    fat = _FAT_DB + 3 + texture(grid, rng, 2.0, 3.0) + 8 * septa(grid, rng, 3.0, 16.0)
    tissue.paint(below(-muscle, 0.6), echo_db=fat)
    add_interface(tissue, muscle, 0.4, 1.2, rng)
    add_interface(tissue, capsule, 0.4, 1.8, rng)
    _add_skin(tissue, rng, 2.4)
    return tissue


def _add_vessel(
    tissue: Tissue,
    x_mm: Floats,
    free: Floats,
    origin_mm: tuple[float, float],
    course_rad: float,
    rng: np.random.Generator,
    *,
    wall_db: float,
) -> None:
    """A vessel that leaves `origin_mm` (x, z) along `course_rad`, bends and tapers out."""
    cosine, sine = np.float32(np.cos(course_rad)), np.float32(-np.sin(course_rad))
    dx, dz = x_mm - np.float32(origin_mm[0]), tissue.grid.z_mm - np.float32(origin_mm[1])
    along, off = dx * cosine + dz * sine, dz * cosine - dx * sine
    rest: Floats = np.asarray(1 - along / rng.uniform(28, 48), np.float32)
    off += np.float32(rng.normal(0, 0.009)) * along * along + wave(tissue.grid, rng, 0.7)
    width = np.float32(rng.uniform(2.6, 4.0)) * np.sqrt(np.clip(rest, 0, 1))
    edge: Floats = np.asarray(np.maximum(np.abs(off), -along) - width, np.float32)
    here: Floats = free * below(rest, 0.05)
    tissue.echo_db += line(edge - 0.8, 1.0, wall_db) * here
    lumen = -26 + texture(tissue.grid, rng, 3.0, 4.0)
    tissue.paint(below(-edge, 1.6) * here, echo_db=lumen, attenuation=0.2)


def _add_skin(tissue: Tissue, rng: np.random.Generator, thickness_mm: float) -> None:
    """Gel and skin: bright lines below the probe, with their reverberation."""
    grid = tissue.grid
    depth = np.broadcast_to(grid.depth_mm, tissue.echo_db.shape)
    skin = depth - np.float32(thickness_mm * rng.uniform(0.9, 1.1)) - wave(grid, rng, 0.1)
    tissue.paint(below(-skin, 0.3), echo_db=3 + texture(grid, rng, 2.0, 1.5))
    gel = depth - np.float32(0.25 * thickness_mm)
    tissue.paint(below(-gel, 0.2), echo_db=13.0)
    add_interface(tissue, skin, 0.12 * thickness_mm, 1.2, rng)
    tissue.echo_db += texture(grid, rng, 1.2, 20.0)  # uneven contact and sound speed


def _add_muscle(tissue: Tissue, weight: Floats, rng: np.random.Generator) -> None:
    """Dark tissue with bright, nearly flat fibre planes."""
    fibres = 9 * septa(tissue.grid, rng, 0.9, 16.0)
    dark = _FAT_DB + fibres + texture(tissue.grid, rng, 2.0, 2.5)
    tissue.paint(weight, echo_db=dark, attenuation=_MUSCLE)


def _from_midline(grid: Grid, side: Side) -> Floats:
    """X for anatomy that is written for the right side of the patient, mirrored for the left."""
    return grid.x_mm if side is Side.RIGHT else -grid.x_mm
