import numpy as np
import pytest

from sonoray.images.boxes.grey_values import find_range, to_grey
from sonoray.images.decode import RejectedImageError

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize(
    ("values", "window", "shown"),
    [
        (RAMP, None, (0, 255)),
        (RAMP, (50, 100), (0, 255)),
        (RAMP.astype(np.int16), None, (0, 255)),
        (RAMP.astype(np.float32), None, (0, 255)),
        (RAMP / 255, None, (0, 1)),
        (RAMP.astype(np.int16) * 10 - 1000, (-1000, 1550), (-1000, 1550)),
    ],
)
def test_what_leaves_no_doubt_is_shown(values, window, shown):
    assert find_range(values, window) == shown
    np.testing.assert_array_equal(to_grey(values, shown), RAMP)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (RAMP.astype(np.int16) - 1, "unsupported_mode"),
        (RAMP.astype(np.uint16) + 1, "unsupported_mode"),
        (RAMP.astype(np.float32) * np.nan, "unsupported_mode"),
        (RAMP.astype(complex), "unsupported_mode"),
        (RAMP > 9, "unsupported_mode"),
        (RAMP // 16, "label_map"),
        ((RAMP // 100).astype(np.float64), "label_map"),
        ((RAMP > 9) * np.uint8(255), "label_map"),
    ],
)
def test_what_might_be_something_else_is_refused(values, reason):
    with pytest.raises(RejectedImageError) as caught:
        find_range(values)
    assert caught.value.reason == reason
