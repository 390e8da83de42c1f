"""The linear image model of the phantom: scatterers, point-spread function, gain, log compression.

It follows the convolution model of Bamber and Dickinson (1980, "Ultrasonic B-scanning: a computer
simulation", Phys. Med. Biol. 25:463): the echo of a field of random point scatterers is their
reflectivity convolved with the pulse-echo point-spread function, here taken separable into an axial
pulse and a lateral beam whose width depends on depth, as the Gaussian beams of linear acoustics do.

Choices:

- The signal is the complex baseband (demodulated) echo, so the carrier of the Gaussian-modulated
  pulse stands in the random phase of each scatterer, and its modulus is the envelope.
- One complex Gaussian scatterer per sample stands for the many below resolution (central limit):
  speckle is fully developed, its envelope is Rayleigh, mean / standard deviation = 1.91.
- 256 samples x 192 beams whatever the image size, so that a small image shows the same physics at
  fewer pixels. The axial pulse has a sigma near one sample; shorter ones would alias.
- Attenuation is integrated along each beam, two ways. Shadows and enhancement are therefore not
  drawn: they follow from the attenuation of what lies above.
- Electronic noise passes the receiver's axial filter and then the time-gain compensation, which
  lifts it with depth.

Units: mm, dB, MHz; attenuation in dB/cm/MHz. Arrays over the beam space are float32 (D, L), D depth
samples by L beams. Numbers can differ in the last bit between CPUs with other vector instructions.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Gray = NDArray[np.uint8]

NUM_DEPTHS = 256
NUM_BEAMS = 192
SOFT_TISSUE_DB_CM_MHZ = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """A transducer with its preset: geometry of the beams, pulse and focus."""

    frequency_mhz: float
    depth_mm: float
    width_mm: float = 0.0
    """Aperture of a linear probe; 0 for a convex one."""
    radius_mm: float = 0.0
    """Radius of the face of a convex probe; 0 for a linear one."""
    half_angle_rad: float = 0.0
    axial_sigma_mm: float
    """Standard deviation of the envelope of the pulse, along depth."""
    beam_sigma_mm: float
    """Standard deviation of the beam at the focus."""
    focus_mm: float
    focal_length_mm: float
    """Distance from the focus at which the beam is wider by the square root of two."""

    @property
    def side_mm(self) -> float:
        """Side of the square that the image shows."""
        return self.depth_mm + self.sag_mm

    @property
    def sag_mm(self) -> float:
        """Height of a convex face above its deepest point."""
        return self.radius_mm * (1.0 - float(np.cos(self.half_angle_rad)))

    def loss_db_mm(self, attenuation: float) -> float:
        """Two-way loss per mm of depth in tissue of `attenuation` dB/cm/MHz."""
        return 0.2 * attenuation * self.frequency_mhz


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Positions of all samples of a probe's beam space, float32 (D, L)."""

    probe: Probe
    x_mm: Floats
    z_mm: Floats
    depth_mm: Floats
    """Distance from the probe's face, (D, 1)."""
    pitch_mm: Floats
    """Distance of neighbouring beams at each depth, (D, 1)."""


@dataclass(slots=True, eq=False)
class Tissue:
    """What the beams meet: maps over the beam space, changed in place while a body is built."""

    grid: Grid
    echo_db: Floats
    """Mean backscatter against parenchyma."""
    attenuation: Floats
    specular: Floats
    """Amplitude of coherent reflectors: interfaces across the beam, calcifications."""

    @classmethod
    def uniform(
        cls, grid: Grid, *, echo_db: float = 0.0, attenuation: float = SOFT_TISSUE_DB_CM_MHZ
    ) -> "Tissue":
        """Return homogeneous tissue."""
        shape = grid.x_mm.shape
        return cls(
            grid=grid,
            echo_db=np.full(shape, echo_db, np.float32),
            attenuation=np.full(shape, attenuation, np.float32),
            specular=np.zeros(shape, np.float32),
        )

    def paint(
        self,
        weight: Floats,
        *,
        echo_db: float | Floats | None = None,
        attenuation: float | None = None,
    ) -> None:
        """Blend new values in, where `weight` (D, L) in 0..1 says so.

        Coherent reflectors under the paint vanish with the tissue that they belonged to.
        """
        if echo_db is not None:
            self.echo_db += weight * (np.float32(echo_db) - self.echo_db)
            self.specular *= 1 - weight
        if attenuation is not None:
            self.attenuation += weight * (np.float32(attenuation) - self.attenuation)


@cache
def beam_grid(probe: Probe) -> Grid:
    """Return the sample positions of `probe` (cached, not writable)."""
    depth = ((np.arange(NUM_DEPTHS) + 0.5) * (probe.depth_mm / NUM_DEPTHS))[:, None]
    across = ((np.arange(NUM_BEAMS) + 0.5) / NUM_BEAMS * 2 - 1)[None, :]
    if probe.radius_mm:
        angle = across * probe.half_angle_rad
        x = (probe.radius_mm + depth) * np.sin(angle)
        z = (probe.radius_mm + depth) * np.cos(angle) - probe.radius_mm
        pitch = (probe.radius_mm + depth) * (2 * probe.half_angle_rad / NUM_BEAMS)
    else:
        x = across * (probe.width_mm / 2) + 0 * depth
        z = depth + 0 * across
        pitch = np.full_like(depth, probe.width_mm / NUM_BEAMS)
    arrays = [array.astype(np.float32) for array in (x, z, depth, pitch)]
    for array in arrays:
        array.setflags(write=False)
    return Grid(probe, *arrays)


@cache
def point_spread(probe: Probe) -> tuple[Floats, Floats]:
    """Return the axial taps (T,) and the lateral transfer function (D, L) over spatial frequency.

    Both have unit energy, so that speckle keeps the power of its scatterers at every depth.
    """
    step_mm = probe.depth_mm / NUM_DEPTHS
    reach = int(np.ceil(3 * probe.axial_sigma_mm / step_mm))
    offsets_mm = np.arange(-reach, reach + 1) * step_mm
    taps = np.exp(-0.5 * (offsets_mm / probe.axial_sigma_mm) ** 2)
    taps /= np.sqrt(np.sum(taps**2))
    grid = beam_grid(probe)
    spread = np.hypot(1.0, (grid.depth_mm - probe.focus_mm) / probe.focal_length_mm)
    sigma_beams = probe.beam_sigma_mm * spread / grid.pitch_mm
    frequency = 2 * np.pi * np.fft.fftfreq(NUM_BEAMS)[None, :]
    transfer = np.exp(-0.5 * (frequency * sigma_beams) ** 2)
    transfer /= np.sqrt(np.mean(transfer**2, axis=1, keepdims=True))
    return taps.astype(np.float32), transfer.astype(np.float32)


def path_loss_db(tissue: Tissue) -> Floats:
    """Return the two-way loss (D, L) from the face of the probe to each sample.

    A beam is wider than its pitch, so what it loses is averaged over its neighbours: the edges of
    shadows are soft.
    """
    probe = tissue.grid.probe
    scale = probe.loss_db_mm(1.0) * probe.depth_mm / NUM_DEPTHS
    loss = np.cumsum(tissue.attenuation * np.float32(scale), axis=0, dtype=np.float32)
    return _binomial(_binomial(loss, axis=1), axis=1)


def echo_envelope(
    tissue: Tissue,
    rng: np.random.Generator,
    *,
    noise_db: float | None = None,
    gain_db_mm: float = 0.0,
) -> Floats:
    """Scan `tissue` once.

    Args:
        tissue: what the beams meet.
        rng: draws the scatterers and the noise.
        noise_db: power of the electronic noise against the echo of parenchyma at the face; None
            for a noiseless receiver.
        gain_db_mm: slope of the time-gain compensation.

    Returns:
        Envelope, float32 (D, L); its root mean square is 1 in parenchyma at the face.
    """
    shape = tissue.echo_db.shape
    taps, transfer = point_spread(tissue.grid.probe)
    scatterers = _complex_normal(rng, shape) * np.exp(tissue.echo_db * _DB)
    reflectivity = (scatterers + tissue.specular) * np.exp(-path_loss_db(tissue) * _DB)
    beams = np.fft.ifft(np.fft.fft(reflectivity, axis=1) * transfer, axis=1)
    if noise_db is not None:
        beams += _complex_normal(rng, shape) * np.float32(10 ** (noise_db / 20))
    reach = len(taps) // 2
    padded = np.pad(beams, ((reach, reach), (0, 0)))
    signal = sum(tap * padded[row : row + shape[0]] for row, tap in enumerate(taps))
    gain = np.exp(np.float32(gain_db_mm) * tissue.grid.depth_mm * _DB)
    envelope: Floats = np.abs(signal) * gain
    return envelope


def log_compress(envelope: Floats, *, range_db: float, white_db: float) -> Floats:
    """Map `range_db` below `white_db` to gray 0..255, float32, linear in dB.

    The display's smoothing filter (1 2 1 along both axes) comes last, as on a scanner.
    """
    level = np.float32(20) * np.log10(np.maximum(envelope, np.float32(1e-9)))
    gray = np.clip((level - (white_db - range_db)) * np.float32(255 / range_db), 0, 255)
    return _binomial(_binomial(gray, axis=0), axis=1)


def scan_convert(gray: Floats, probe: Probe, image_size: int) -> Gray:
    """Resample beam space (D, L) to a square image, uint8 (S, S); black outside of the sector."""
    corners, weights, inside = _conversion(probe, image_size)
    flat = gray.ravel()
    image = sum(flat[index] * weight for index, weight in zip(corners, weights, strict=True))
    return np.where(inside, np.asarray(image) + 0.5, 0).astype(np.uint8)


@cache
def image_grid(probe: Probe, image_size: int) -> tuple[Floats, Floats]:
    """Return x and z in mm of the pixel centres, float32 (1, S) and (S, 1)."""
    along = ((np.arange(image_size) + 0.5) * (probe.side_mm / image_size)).astype(np.float32)
    return along[None, :] - np.float32(probe.side_mm / 2), along[:, None] - np.float32(probe.sag_mm)


@cache
def _conversion(probe: Probe, image_size: int) -> tuple[Any, Any, NDArray[np.bool_]]:
    x, z = image_grid(probe, image_size)
    if probe.radius_mm:
        depth = np.hypot(x, z + probe.radius_mm) - probe.radius_mm
        across = np.arctan2(x, z + probe.radius_mm) / probe.half_angle_rad
    else:
        depth, across = z + 0 * x, x / (probe.width_mm / 2) + 0 * z
    inside = (depth >= 0) & (depth <= probe.depth_mm) & (np.abs(across) <= 1)
    row = np.clip(depth / probe.depth_mm * NUM_DEPTHS - 0.5, 0, NUM_DEPTHS - 1)
    column = np.clip((across + 1) / 2 * NUM_BEAMS - 0.5, 0, NUM_BEAMS - 1)
    top = np.minimum(row.astype(np.int64), NUM_DEPTHS - 2)
    left = np.minimum(column.astype(np.int64), NUM_BEAMS - 2)
    down, right = row - top, column - left
    first = top * NUM_BEAMS + left
    corners = (first, first + 1, first + NUM_BEAMS, first + NUM_BEAMS + 1)
    shares = ((1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right)
    return corners, tuple(share.astype(np.float32) for share in shares), inside


_DB = np.float32(np.log(10) / 20)


def _complex_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.complex64]:
    """Circular complex Gaussian of unit power."""
    pairs = rng.standard_normal((*shape, 2), dtype=np.float32)
    pairs *= np.float32(np.sqrt(0.5))
    return pairs.view(np.complex64)[..., 0]


def _binomial(values: Floats, *, axis: int) -> Floats:
    """Smooth with 1 2 1 along `axis`, the ends repeated."""
    first = np.take(values, [0], axis=axis)
    last = np.take(values, [-1], axis=axis)
    before = np.concatenate((first, values), axis=axis)
    after = np.concatenate((values, last), axis=axis)
    pairs = before + after  # sums of neighbours, one longer than `values`
    size = values.shape[axis]
    low, high = (slice(size), slice(1, None))
    inner = (low, slice(None)) if axis == 0 else (slice(None), low)
    outer = (high, slice(None)) if axis == 0 else (slice(None), high)
    return np.float32(0.25) * (pairs[inner] + pairs[outer])
