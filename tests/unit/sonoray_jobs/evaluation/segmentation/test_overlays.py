"""Outlines over an image, as a picture."""

import numpy as np
from PIL import Image

from sonoray_jobs.evaluation.segmentation.overlays import draw_outlines


def test_what_is_meant_is_green_and_what_was_found_red(tmp_path):
    image = np.full((60, 80), 90, np.uint8)
    meant, found = np.zeros((2, 60, 80), bool)
    meant[10:30, 5:40] = True
    found[35:55, 45:80] = True  # reaches the picture's edge
    draw_outlines(
        image, [("x", "y", meant, found), ("z", "w", meant, None)], tmp_path / "a.png", None
    )
    drawn = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).astype(int)
    left, right = np.array_split(drawn, 2, axis=1)

    def coloured(part, strong, weak):
        return int(((part[..., strong] - part[..., weak]) > 80).sum())

    assert coloured(left, 1, 0) > 50
    assert coloured(left, 0, 1) > 50
    assert coloured(right, 1, 0) > 50
    assert coloured(right, 0, 1) == 0
