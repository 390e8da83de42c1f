"""Lesions: what can be found, how it looks, and what follows from the looks.

A lesion is drawn from `PROTOTYPES`, a joint table of its visible attributes. Its weights make the
closed questions about even (malignant 50 %, spiculated 50 %, calcified 49 %, the most frequent
echogenicity 42 %), and its rows obey one rule that can be learned from the images alone: **a solid
lesion is malignant where at least two of the three signs meet: hypoechoic, spiculated,
calcified**. Malignant tissue also attenuates more, so that a shadow follows behind it.

Echogenicity and size are coarse features; the margin and the microcalcifications are fine ones
(spicules of about a tenth of the diameter, grains of two to three pixels at 192 pixels), so an
encoder that sees more detail must answer more of the questions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from sonoray.phantom.physics import Floats, Tissue

_NUM_ANGLES = 720

CALCIFICATION = 128
"""Value of calcium in a mask; the rest of a lesion is 255."""


class Kind(StrEnum):
    """What the lesion is."""

    CYST = "cyst"
    BENIGN = "benign_solid"
    MALIGNANT = "malignant_solid"
    CALCIFIED = "calcified"


class Margin(StrEnum):
    """Outline of the lesion."""

    SMOOTH = "smooth"
    SPICULATED = "spiculated"


class Echogenicity(StrEnum):
    """Brightness of the lesion against the tissue around it."""

    ANECHOIC = "anechoic"
    HYPO = "hypoechoic"
    ISO = "isoechoic"
    HYPER = "hyperechoic"


class Posterior(StrEnum):
    """What the lesion does to the tissue behind it."""

    NONE = "none"
    SHADOW = "shadow"
    ENHANCEMENT = "enhancement"


class Side(StrEnum):
    """Side of the patient; lobe in the liver and the thyroid."""

    LEFT = "left"
    RIGHT = "right"


class SizeClass(StrEnum):
    """Third of the organ's range of lesion sizes."""

    SMALL = "small"
    MEDIUM = "medium"
    LARGE = "large"


@dataclass(frozen=True, slots=True)
class Prototype:
    """One row of the joint table of visible attributes."""

    weight: float
    kind: Kind
    echogenicity: Echogenicity
    margin: Margin
    calcified: bool


PROTOTYPES = (
    Prototype(0.17, Kind.MALIGNANT, Echogenicity.HYPO, Margin.SPICULATED, True),
    Prototype(0.14, Kind.MALIGNANT, Echogenicity.HYPO, Margin.SPICULATED, False),
    Prototype(0.07, Kind.MALIGNANT, Echogenicity.HYPO, Margin.SMOOTH, True),
    Prototype(0.06, Kind.MALIGNANT, Echogenicity.ISO, Margin.SPICULATED, True),
    Prototype(0.06, Kind.MALIGNANT, Echogenicity.HYPER, Margin.SPICULATED, True),
    Prototype(0.06, Kind.BENIGN, Echogenicity.ISO, Margin.SMOOTH, False),
    Prototype(0.04, Kind.BENIGN, Echogenicity.HYPER, Margin.SMOOTH, False),
    Prototype(0.04, Kind.BENIGN, Echogenicity.HYPO, Margin.SMOOTH, False),
    Prototype(0.05, Kind.BENIGN, Echogenicity.ISO, Margin.SPICULATED, False),
    Prototype(0.02, Kind.BENIGN, Echogenicity.HYPER, Margin.SPICULATED, False),
    Prototype(0.03, Kind.BENIGN, Echogenicity.ISO, Margin.SMOOTH, True),
    Prototype(0.16, Kind.CYST, Echogenicity.ANECHOIC, Margin.SMOOTH, False),
    Prototype(0.10, Kind.CALCIFIED, Echogenicity.HYPER, Margin.SMOOTH, True),
)

_ECHO_DB = {
    Echogenicity.ANECHOIC: -33.0,
    Echogenicity.HYPO: -14.0,
    Echogenicity.ISO: 0.0,
    Echogenicity.HYPER: 12.0,
}
_ATTENUATION = {Kind.CYST: 0.02, Kind.BENIGN: 0.5, Kind.MALIGNANT: 1.2}
"""dB/cm/MHz."""
_CALCIFIED_LOSS_DB = 34.0
"""Two-way loss across a calcified lesion."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Lesion:
    """One lesion; it keeps its properties over all images that show it."""

    kind: Kind
    echogenicity: Echogenicity
    margin: Margin
    calcified: bool
    side: Side
    size_mm: float
    """Largest diameter of the largest section."""
    size_class: SizeClass
    aspect: float
    """Height over width of a section."""
    outline: Floats
    """Radius over the mean radius, by angle, (720,)."""

    @property
    def malignant(self) -> bool:
        """True where the kind is malignant."""
        return self.kind is Kind.MALIGNANT

    @property
    def posterior(self) -> Posterior:
        """What is seen behind the lesion."""
        if self.kind is Kind.CYST:
            return Posterior.ENHANCEMENT
        return Posterior.NONE if self.kind is Kind.BENIGN else Posterior.SHADOW


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """Where and how an image plane cuts a lesion."""

    x_mm: float
    z_mm: float
    scale: float
    """Diameter of the section over that of the largest one."""
    tilt_rad: float
    shift: int
    """Angles by which the outline is turned: other planes cut other spicules."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Grain:
    """A microcalcification."""

    x_mm: float
    z_mm: float
    radius_mm: float


def draw_lesion(rng: np.random.Generator, *, size_bounds_mm: tuple[float, ...]) -> Lesion:
    """Draw a lesion.

    Args:
        rng: draws the prototype, the side, the size and the outline.
        size_bounds_mm: the four bounds of the three size classes, which are equally likely.
    """
    weights = np.array([prototype.weight for prototype in PROTOTYPES])
    prototype = PROTOTYPES[int(rng.choice(len(PROTOTYPES), p=weights / weights.sum()))]
    number = int(rng.integers(3))
    size_mm = round(float(rng.uniform(size_bounds_mm[number], size_bounds_mm[number + 1])), 1)
    upright = prototype.kind is Kind.MALIGNANT
    return Lesion(
        kind=prototype.kind,
        echogenicity=prototype.echogenicity,
        margin=prototype.margin,
        calcified=prototype.calcified,
        side=list(Side)[int(rng.integers(2))],
        size_mm=size_mm,
        size_class=list(SizeClass)[number],
        aspect=float(rng.uniform(0.8, 1.0) if upright else rng.uniform(0.62, 0.85)),
        outline=_outline(rng, prototype.margin),
    )


def lesion_distance(
    lesion: Lesion, section: Section, x_mm: Floats, z_mm: Floats
) -> tuple[Floats, Floats]:
    """Return the distance from the outline in mm (negative inside) and the polar angle.

    Args:
        lesion: its shape.
        section: its place.
        x_mm: positions, any shape.
        z_mm: positions of the same or a broadcastable shape.
    """
    half_width = np.float32(lesion.size_mm * section.scale / 2)
    half_height = half_width * np.float32(lesion.aspect)
    cosine, sine = np.float32(np.cos(section.tilt_rad)), np.float32(np.sin(section.tilt_rad))
    dx, dz = x_mm - np.float32(section.x_mm), z_mm - np.float32(section.z_mm)
    along = (dx * cosine + dz * sine) / half_width
    down = (dz * cosine - dx * sine) / half_height
    angle = np.arctan2(down, along)
    turns = ((angle + np.float32(np.pi)) * np.float32(_NUM_ANGLES / (2 * np.pi))).astype(np.int64)
    radius = np.roll(lesion.outline, section.shift)[turns % _NUM_ANGLES]
    return (np.hypot(along, down) - radius) * half_height, angle


def lesion_mask(
    lesion: Lesion,
    section: Section,
    grains: Sequence[Grain],
    x_mm: Floats,
    z_mm: Floats,
) -> NDArray[np.uint8]:
    """Return 0 outside of the outline, `CALCIFICATION` where calcium lies, 255 elsewhere inside."""
    distance, _ = lesion_distance(lesion, section, x_mm, z_mm)
    mask = np.where(distance < 0, 255, 0).astype(np.uint8)
    if lesion.kind is Kind.CALCIFIED:
        mask[mask > 0] = CALCIFICATION
    for grain in grains:
        reach = np.hypot(x_mm - np.float32(grain.x_mm), z_mm - np.float32(grain.z_mm))
        mask[(reach < grain.radius_mm) & (mask > 0)] = CALCIFICATION
    return mask


def paint_lesion(
    tissue: Tissue, lesion: Lesion, section: Section, rng: np.random.Generator
) -> list[Grain]:
    """Draw the lesion into `tissue`; shadow and enhancement follow from its attenuation.

    Returns:
        Its microcalcifications.
    """
    grid = tissue.grid
    grain = np.float32(grid.probe.side_mm / 192)
    distance, angle = lesion_distance(lesion, section, grid.x_mm, grid.z_mm)
    inside = np.clip(0.5 - distance / grain, 0, 1)
    echo = _ECHO_DB[lesion.echogenicity]
    if lesion.margin is Margin.SPICULATED:  # echogenic rim of reactive tissue
        rim = np.exp(-(((distance - 3 * grain) / (3 * grain)) ** 2))
        tissue.echo_db += 5 * rim
    attenuation = _ATTENUATION.get(lesion.kind)
    if attenuation is None:  # a calcified lesion takes nearly all, whatever its size
        height_mm = lesion.size_mm * section.scale * lesion.aspect
        attenuation = _CALCIFIED_LOSS_DB / grid.probe.loss_db_mm(height_mm)
    tissue.paint(inside, echo_db=echo, attenuation=attenuation)
    if lesion.echogenicity is Echogenicity.ISO:  # the halo that makes an isoechoic nodule visible
        tissue.echo_db -= 18 * np.exp(-((distance / (2.6 * grain)) ** 2))
    across = np.abs(np.sin(angle)) ** 8  # interfaces reflect where they lie across the beam
    if lesion.kind is Kind.CYST:
        tissue.specular += 2.5 * across * np.exp(-(((distance - grain) / grain) ** 2))
    if lesion.kind is Kind.CALCIFIED:
        front = np.clip(-2 * np.sin(angle), 0, 1) * np.exp(-((distance / (2 * grain)) ** 2))
        tissue.specular += 9 * front
    elif lesion.calcified:
        return _paint_grains(tissue, lesion, section, rng)
    return []


def _paint_grains(
    tissue: Tissue, lesion: Lesion, section: Section, rng: np.random.Generator
) -> list[Grain]:
    """Scatter bright grains over the section, coherent so that none drowns in the speckle."""
    grid = tissue.grid
    size = np.float32(grid.probe.side_mm / 192 * 0.9)
    half = lesion.size_mm * section.scale / 2
    grains = []
    for _ in range(int(rng.integers(6, 11))):
        turn, reach = rng.uniform(0, 2 * np.pi), 0.72 * np.sqrt(rng.uniform())
        x = np.float32(section.x_mm + half * reach * np.cos(turn))
        z = np.float32(section.z_mm + half * lesion.aspect * reach * np.sin(turn))
        square = ((grid.x_mm - x) ** 2 + (grid.z_mm - z) ** 2) / size**2
        tissue.specular += 14 * np.exp(-np.minimum(square, 30))
        grains.append(Grain(x_mm=float(x), z_mm=float(z), radius_mm=float(1.5 * size)))
    return grains


def _outline(rng: np.random.Generator, margin: Margin) -> Floats:
    angle = np.linspace(0, 2 * np.pi, _NUM_ANGLES, endpoint=False)
    outline = np.ones(_NUM_ANGLES)
    for order in (2, 3):
        outline += 0.03 * rng.normal() * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
    if margin is Margin.SPICULATED:
        outline -= 0.12
        for order in range(4, 9):
            outline += 0.035 * rng.normal() * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
        num_spicules = int(rng.integers(8, 13))
        for spicule in range(num_spicules):
            centre = (spicule + rng.uniform(-0.4, 0.4)) * 2 * np.pi / num_spicules
            offset = np.abs(np.angle(np.exp(1j * (angle - centre))))
            height, width = rng.uniform(0.25, 0.6), rng.uniform(0.07, 0.12)
            outline += height * np.clip(1 - offset / (2.5 * width), 0, 1) ** 2
    return outline.astype(np.float32)
