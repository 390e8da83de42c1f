"""Dice and IoU on masks that are small enough to count."""

import numpy as np
import pytest

from sonoray.metrics.areas.mask_overlap import dice, overlap_ratio


def test_cells_are_counted():
    found, truth = np.zeros((2, 4, 5), bool)
    truth[1, :4] = True
    found[1, 2:] = True
    found[2, 0] = True
    assert dice(found, truth) == pytest.approx(2 * 2 / (4 + 4))
    assert overlap_ratio(found, truth) == pytest.approx(2 / 6)
    assert dice(truth, truth) == overlap_ratio(truth, truth) == 1


def test_nothing_is_found_where_nothing_is():
    nothing, something = np.zeros((2, 3, 3), bool)
    something[0, 0] = True
    assert dice(nothing, nothing) == overlap_ratio(nothing, nothing) == 1
    assert dice(something, nothing) == overlap_ratio(nothing, something) == 0
