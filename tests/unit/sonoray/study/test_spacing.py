"""An image's scale, from its labels."""

import pytest

from sonoray.study.spacing import spacing_of


@pytest.mark.parametrize(
    ("labels", "spacing"),
    [
        ({"spacing_mm_x": "0.1", "spacing_mm_y": "0.25"}, (0.1, 0.25)),
        ({"mm_per_pixel": "0.6648"}, (0.6648, 0.6648)),
        ({"spacing_mm_x": "0.1"}, None),
        ({"mm_per_pixel": "unknown"}, None),
        ({"mm_per_pixel": "0"}, None),
        ({"mm_per_pixel": "nan"}, None),
        ({}, None),
    ],
)
def test_millimetres_are_known_or_not(labels, spacing):
    assert spacing_of(labels) == spacing
