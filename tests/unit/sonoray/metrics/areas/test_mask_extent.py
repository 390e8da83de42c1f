"""Diameters and areas of shapes whose size is known."""

import numpy as np
import pytest

from sonoray.metrics.areas.mask_extent import extent_of


def test_a_disc_has_its_diameter_and_area_in_millimetres():
    rows, columns = np.mgrid[:200, :200]
    disc = (rows - 90.5) ** 2 + (columns - 100.5) ** 2 < 60**2
    found = extent_of(disc, (0.2, 0.2))
    assert found.diameter == pytest.approx(24, rel=0.02)
    assert found.area == pytest.approx(np.pi * 12**2, rel=0.01)
    stretched = extent_of(disc, (0.2, 0.4))  # pixels that are higher than wide
    assert stretched.diameter == pytest.approx(48, rel=0.02)
    assert stretched.area == pytest.approx(2 * found.area)


def test_one_pixel_a_stray_part_and_nothing():
    mask = np.zeros((30, 40), bool)
    assert extent_of(mask).diameter == extent_of(mask).area == 0
    mask[29, 39] = True
    assert extent_of(mask).diameter == pytest.approx(2**0.5)
    mask[2:5, 2:6] = True  # 3 x 4 pixels, and the other one far away
    assert extent_of(mask).diameter == pytest.approx(5)
    assert extent_of(mask).area == 13
