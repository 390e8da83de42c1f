"""Boxes and points of true masks."""

import numpy as np

from llava_ultra.segmentation.prompting import box_of, point_of

MASK = np.zeros((20, 30), bool)
MASK[4:9, 10:25] = True
MASK[5:8, 2] = True  # a thin part far away


def test_a_tight_box_and_the_innermost_point():
    assert box_of(MASK).tolist() == [2, 4, 24, 8]
    assert point_of(MASK)[1] == 6
    assert 12 <= point_of(MASK)[0] <= 22


def test_drawn_ones_stay_in_the_picture_and_the_mask():
    rng = np.random.default_rng(0)
    boxes = np.stack([box_of(MASK, rng) for _ in range(200)])
    assert (boxes[:, :2] <= boxes[:, 2:]).all()
    assert (boxes >= 0).all()
    assert (boxes[:, [0, 2]] <= 29).all()
    assert (boxes[:, [1, 3]] <= 19).all()
    assert boxes.std(axis=0).min() > 0.1
    np.testing.assert_allclose(boxes.mean(axis=0), [2, 4, 24, 8], atol=0.7)
    points = np.stack([point_of(MASK, rng) for _ in range(100)]).astype(int)
    assert MASK[points[:, 1], points[:, 0]].all()
    assert len({tuple(point) for point in points.tolist()}) > 40
