"""Character errors: against the table of the textbook, over pages."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sonoray.metrics.reading.character_errors import edit_distance, num_errors, ratio_of_sums


def by_table(first: str, second: str) -> int:
    row = list(range(len(second) + 1))
    for at, sign in enumerate(first, 1):
        before, row[0] = row[0], at
        for place, other in enumerate(second, 1):
            here = min(row[place] + 1, row[place - 1] + 1, before + (sign != other))
            before, row[place] = row[place], here
    return row[-1]


@given(st.text("ab病灶", max_size=12), st.text("ab病灶", max_size=12))
def test_the_distance_is_that_of_the_table(first, second):
    assert edit_distance(first, second) == by_table(first, second)


def test_blanks_and_widths_are_no_errors():
    assert num_errors("大小 １２ mm", "大小12MM") == (0, 6)
    assert num_errors("门静脉", "内静脉内") == (2, 3)
    assert num_errors("低回声", "") == (3, 3)


def test_long_pages_weigh_more():
    rate = ratio_of_sums([(1, 1), (0, 9)])
    assert rate(np.ones((1, 2)))[0] == pytest.approx(0.1)
    assert rate(np.array([[1.0, 0.0]]))[0] == 1
    assert np.isnan(ratio_of_sums([(0, 0)])(np.ones((1, 1)))[0])
