"""The scan area of an ultrasound picture, and what a pixel of it measures.

A scanner's screen is the scan plus names, dates, scales, curves and a logo. Sequence of Ultrasound
Regions (DICOM PS3.3 section C.8.5.5) says where what is. A picture is cut to the box around all its
two-dimensional regions of tissue or colour flow: all of them, because a split screen shows two
halves of one finding, and no other kind, because M-mode strips, Doppler spectra and ECG traces are
curves and no anatomy. Whatever stands beside the box is gone, burned-in names included; what is
drawn into the scan stays.

Regions that leave the picture belong to another picture (it was scaled or cut after they were
written), so they say nothing of this one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydicom.dataset import Dataset

from sonoray.images.decode import Pixels

_TWO_DIMENSIONAL = 1
_TISSUE_AND_FLOW = (1, 2)
_CENTIMETRES = 3
_LOWEST_LINE = 8
"""Pixels: lines of text are hardly lower."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScanArea:
    """Where the scan is in the picture, in pixels; `right` and `lower` are the first outside."""

    left: int
    upper: int
    right: int
    lower: int

    def scaled(self, across: float, down: float) -> "ScanArea":
        """The same part of a picture that is so many times as wide and as high."""
        return ScanArea(
            left=round(self.left * across),
            upper=round(self.upper * down),
            right=round(self.right * across),
            lower=round(self.lower * down),
        )

    def leaves_out_text(self, rows: int, columns: int) -> bool:
        """Whether a cut of a picture takes away a strip in which a line of text could stand.

        A region that is the whole picture, or nearly, removes no name.
        """
        strips = self.left, self.upper, columns - self.right, rows - self.lower
        return max(strips) >= _LOWEST_LINE

    def cut(self, frame: Pixels) -> Pixels:
        """Return that part of a uint8 `(H, W)` or `(H, W, 3)` frame."""
        return frame[self.upper : self.lower, self.left : self.right]


def find_regions(data: Dataset, *, rows: int, columns: int) -> list[Dataset]:
    """Regions of the scan itself; empty where there are none or one leaves the picture."""
    found = [
        region
        for region in data.get("SequenceOfUltrasoundRegions") or ()
        if region.get("RegionSpatialFormat") == _TWO_DIMENSIONAL
        and region.get("RegionDataType") in _TISSUE_AND_FLOW
    ]
    areas = [_area(region) for region in found]
    # the last pixel is inside (C.8.5.5.1.2), and some scanners name the first outside
    inside = (
        area is not None
        and 0 <= area.left < area.right <= columns + 1
        and 0 <= area.upper < area.lower <= rows + 1
        for area in areas
    )
    return found if all(inside) else []


def enclose(regions: list[Dataset], *, rows: int, columns: int) -> ScanArea:
    """Smallest box around regions of `find_regions`, at least one."""
    areas = [area for area in map(_area, regions) if area is not None]
    return ScanArea(
        left=min(area.left for area in areas),
        upper=min(area.upper for area in areas),
        right=min(max(area.right for area in areas), columns),
        lower=min(max(area.lower for area in areas), rows),
    )


def read_spacing(
    data: Dataset, regions: list[Dataset], *, stretched: tuple[float, float] = (1, 1)
) -> dict[str, str]:
    """Millimetres per pixel as image labels `spacing_mm_x` and `spacing_mm_y`; empty if unknown.

    From the regions where these are in centimetres, unless they disagree; else from Pixel Spacing.
    Where no size is known but that pixels are not square (Pixel Aspect Ratio), the label
    `pixel_aspect` is a pixel's width divided by its height.

    Args:
        data: the attributes of the picture.
        regions: those of `find_regions`.
        stretched: by how much the picture was made wider and higher than it is stored.
    """
    spacings = [found for found in map(_region_spacing, regions) if found is not None]
    spacing = spacings[0] if spacings else _pixel_spacing(data)
    if spacing is None:
        return _pixel_aspect(data) if stretched == (1, 1) else {}
    if not all(_is_equal(spacing, other) for other in spacings):  # two scales in one picture
        return {}
    x_mm, y_mm = spacing[0] / stretched[0], spacing[1] / stretched[1]
    return {"spacing_mm_x": f"{x_mm:.6g}", "spacing_mm_y": f"{y_mm:.6g}"}


def _is_equal(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether both are one scale: a ten-thousandth is a tenth of a pixel in a thousand."""
    return all(math.isclose(a, b, rel_tol=1e-4) for a, b in zip(one, other, strict=True))


def _area(region: Dataset) -> ScanArea | None:
    corners = [region.get(f"RegionLocation{name}") for name in ("MinX0", "MinY0", "MaxX1", "MaxY1")]
    if not all(isinstance(corner, int) for corner in corners):
        return None
    left, upper, right, lower = corners
    return ScanArea(left=left, upper=upper, right=right + 1, lower=lower + 1)


def _region_spacing(region: Dataset) -> tuple[float, float] | None:
    units = region.get("PhysicalUnitsXDirection"), region.get("PhysicalUnitsYDirection")
    if units != (_CENTIMETRES, _CENTIMETRES):
        return None
    deltas = region.get("PhysicalDeltaX"), region.get("PhysicalDeltaY")
    return _positive(deltas, scale=10)


def _pixel_spacing(data: Dataset) -> tuple[float, float] | None:
    value = data.get("PixelSpacing")
    if not isinstance(value, Sequence) or len(value) != 2:
        return None
    return _positive((value[1], value[0]), scale=1)  # row spacing, the vertical one, comes first


def _pixel_aspect(data: Dataset) -> dict[str, str]:
    value = data.get("PixelAspectRatio")
    if not isinstance(value, Sequence) or len(value) != 2:
        return {}
    size = _positive((value[1], value[0]), scale=1)  # the vertical size comes first
    return (
        {} if size is None or size[0] == size[1] else {"pixel_aspect": f"{size[0] / size[1]:.6g}"}
    )


def _positive(values: tuple[Any, Any], *, scale: float) -> tuple[float, float] | None:
    """Both magnitudes times `scale`; None unless they are finite and not zero."""
    try:
        x_mm, y_mm = (abs(float(value)) * scale for value in values)
    except (TypeError, ValueError):
        return None
    return (x_mm, y_mm) if 0 < x_mm < math.inf and 0 < y_mm < math.inf else None
