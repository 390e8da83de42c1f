#!/usr/bin/env bash
# pydicom 3.0.2: `apply_voi_lut` turns brightness around where Rescale Slope is negative.
#
# Version: pydicom 3.0.2, numpy 2.
# What one would expect: a window maps its lower end to the least output value and its upper end to
# the greatest (DICOM PS3.3 section C.11.2.1.2: values below the window become ymin, those above it
# ymax), whatever the rescale before it was. Rescale Slope may be negative (C.11.1.1.2).
# What happens: `apply_windowing` takes for ymin what the least stored value becomes, and for ymax
# what the greatest one becomes. By a negative slope ymin is the greater of the two, so that values
# below the window come out brightest, and a negative picture is shown where the object says how to
# show a positive one. No warning is given.
# Seen: with slope -1 the rescaled values -255, -128, 0 come out as 0, -127, -255 through a window
# that spans them, instead of in their order.
# The script fails if that changes.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --disable-pip-version-check "pydicom==3.0.2" "numpy<3"
"$scratch/venv/bin/python" - <<'PYTHON'
import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut

data = Dataset()
data.BitsStored, data.PixelRepresentation, data.PhotometricInterpretation = 8, 0, "MONOCHROME2"
data.RescaleSlope, data.RescaleIntercept = -1, 0
data.WindowCenter, data.WindowWidth = -127, 256
stored = np.array([[255, 128, 0]], np.uint8)
values = apply_modality_lut(stored, data)
shown = apply_voi_lut(values, data)
print("values", values.tolist(), "shown", np.round(shown).tolist())
assert (np.diff(values) > 0).all()
assert (np.diff(shown) < 0).all(), "pydicom keeps the order now"
PYTHON
