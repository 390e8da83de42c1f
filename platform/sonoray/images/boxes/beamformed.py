"""B-mode pictures of UFF's beamformed signals, as USTB shows them.

A beamformed signal is a complex or real number a pixel, which spans more decades than a screen.
USTB shows its envelope in decibel below the strongest of the file, 60 of them from black to white;
so does this. Columns and rows of a linear scan lie in space as they are stored. Those of a sector
scan are angles and depths, and are brought into space by bilinear interpolation.

Source: USTB, classes `uff.beamformed_data`, `uff.linear_scan` and `uff.sector_scan`. MATLAB writes
the first axis fastest: pixels run along depth first, and frames are the first axis of the file.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sonoray.images.boxes.hdf5 import check_data, class_of
from sonoray.images.decode import Pixels, RejectedImageError
from sonoray.images.video import VideoConfig

if TYPE_CHECKING:
    from h5py import Group

DYNAMIC_RANGE_DB = 60
"""From black to white."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BMode:
    """Pictures of beamformed signals."""

    pictures: Pixels
    """uint8 `(N, H, W)`."""
    labels: Mapping[str, str]
    """The size of a pixel."""
    notes: tuple[str, ...]
    """What was done to them."""


def read_beamformed(group: "Group", config: VideoConfig) -> BMode:
    """Bring the beamformed signals of a UFF group to pictures.

    Args:
        group: of class `uff.beamformed_data`.
        config: what is accepted.

    Raises:
        RejectedImageError: a part is missing, too large, or of a kind that is not read.
    """
    try:
        scan, data = group["scan"], group["data"]
        kind = class_of(scan)
        lateral, depth = {
            "uff.linear_scan": ("x_axis", "z_axis"),
            "uff.sector_scan": ("azimuth_axis", "depth_axis"),
        }[kind]
        columns, rows = (np.ravel(scan[axis][()]).astype(np.float64) for axis in (lateral, depth))
    except KeyError:
        raise RejectedImageError(
            "unsupported_mode: beamformed signals without a linear or sector scan; write the "
            "picture itself as 8 bits"
        ) from None
    num_pixels = len(columns) * len(rows)
    if min(len(columns), len(rows)) < 2 or num_pixels > config.max_pixels:
        raise RejectedImageError(
            f"too_many_pixels: {len(columns)} x {len(rows)}, at most {config.max_pixels:,} and at "
            "least 2 x 2"
        )
    envelope = _envelope(data, config)
    if envelope.shape[1] != num_pixels:
        raise RejectedImageError(
            f"contradiction: {envelope.shape[1]:,} beamformed signals a frame, and a scan of "
            f"{len(columns)} x {len(rows)}"
        )
    decibel = _decibel(envelope.reshape(-1, len(columns), len(rows)))
    frames = decibel.swapaxes(1, 2)
    notes = (f"beamformed signals are shown over {DYNAMIC_RANGE_DB} dB",)
    if kind == "uff.sector_scan":
        frames, spacing_mm = _to_space(frames, columns, rows, config)
    else:
        spacing_mm = (_step(columns) * 1000, _step(rows) * 1000)
    shown = np.clip((frames / DYNAMIC_RANGE_DB + 1) * 255, 0, 255)
    return BMode(
        pictures=np.rint(shown).astype(np.uint8),
        labels={"spacing_mm_x": f"{spacing_mm[0]:.6g}", "spacing_mm_y": f"{spacing_mm[1]:.6g}"},
        notes=notes,
    )


def _envelope(data: Any, config: VideoConfig) -> NDArray[np.float32]:  # noqa: ANN401 - h5py's
    """Magnitudes `(frames, pixels)`; several channels or waves would have to be summed first."""
    parts = [data[name] for name in ("real", "imag")] if hasattr(data, "keys") else [data]
    for part in parts:
        check_data(part, config)
    real, *imaginary = (part[()].astype(np.float32) for part in parts)
    values = np.hypot(real, imaginary[0]) if imaginary else np.abs(real)
    if values.ndim > 1 and max(values.shape[1:-1], default=1) > 1:
        raise RejectedImageError(
            "raw_channel_data: beamformed signals of single channels or waves; add them up "
            "(in USTB with postprocess.coherent_compounding)"
        )
    flat: NDArray[np.float32] = values.reshape(-1, values.shape[-1])
    return flat


def _decibel(envelope: NDArray[np.float32]) -> NDArray[np.float32]:
    strongest = float(envelope.max(initial=0))
    if not 0 < strongest < np.inf:
        raise RejectedImageError("unreadable: the beamformed signals are empty; write them again")
    lowest = strongest * 10 ** (-DYNAMIC_RANGE_DB / 20)
    decibel: NDArray[np.float32] = 20 * np.log10(np.maximum(envelope, lowest) / strongest)
    return decibel


def _to_space(
    frames: NDArray[np.float32],
    azimuths: NDArray[np.float64],
    depths: NDArray[np.float64],
    config: VideoConfig,
) -> tuple[NDArray[np.float32], tuple[float, float]]:
    """Bring `(N, depths, azimuths)` to square pixels as large as a step in depth."""
    from scipy.ndimage import map_coordinates

    step = _step(depths)
    half_width = float(depths.max() * np.sin(np.abs(azimuths)).max())
    top = float(depths.min() * np.cos(azimuths).min())
    x = np.arange(-half_width, half_width + step / 2, step)
    z = np.arange(top, float(depths.max()) + step / 2, step)
    if len(x) * len(z) > config.max_pixels:
        raise RejectedImageError(
            f"too_many_pixels: {len(x)} x {len(z)} in space, at most {config.max_pixels:,}; raise "
            "video.max_pixels"
        )
    across, down = np.meshgrid(x, z)
    depth, azimuth = np.hypot(across, down), np.arctan2(across, down)
    places = [
        (depth - depths[0]) / step,
        (azimuth - azimuths[0]) / _step(azimuths),
    ]
    shown = [
        map_coordinates(frame, places, order=1, mode="constant", cval=-DYNAMIC_RANGE_DB)
        for frame in frames
    ]
    return np.stack(shown), (step * 1000, step * 1000)


def _step(axis: NDArray[np.float64]) -> float:
    """Distance of neighbours; positive and even.

    Raises:
        RejectedImageError: it is not.
    """
    steps = np.diff(axis)
    if not (steps > 0).all() or np.ptp(steps) > 0.01 * steps.mean():
        raise RejectedImageError(
            "unsupported_mode: the scan's axes do not grow evenly; write the picture itself as 8 "
            "bits"
        )
    return float(steps.mean())
