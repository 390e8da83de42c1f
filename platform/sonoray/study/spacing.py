"""How large a pixel is: what ingest kept of an image's scale, as its labels have it.

DICOM, volumes and beamformed data give `spacing_mm_x` and `spacing_mm_y`
(`sonoray.ingest.dicom.regions`), the phantom `mm_per_pixel`; a table may bring either as columns of
its images. Public sets of PNG files have none.
"""

import math
from collections.abc import Mapping

SPACING_LABELS = ("spacing_mm_x", "spacing_mm_y")
_SQUARE = "mm_per_pixel"


def spacing_of(labels: Mapping[str, str]) -> tuple[float, float] | None:
    """Millimetres between pixels across and down; None where the labels do not tell."""
    names = SPACING_LABELS if SPACING_LABELS[0] in labels else (_SQUARE, _SQUARE)
    try:
        across, down = (float(labels[name]) for name in names)
    except (KeyError, ValueError):
        return None
    is_known = all(math.isfinite(value) and value > 0 for value in (across, down))
    return (across, down) if is_known else None
