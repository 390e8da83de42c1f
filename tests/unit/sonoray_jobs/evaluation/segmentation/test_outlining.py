import numpy as np

from llava_ultra.segmentation.mask_learning import Examples
from sonoray_jobs.evaluation.segmentation.outlining import mean_masks


def test_the_mean_mask_is_cut_where_it_fits_the_training_masks_best():
    """Three masks share a column and one has another: it pays to leave that one out."""
    masks = np.zeros((4, 1, 4, 4), np.uint8)
    masks[:3, 0, :, 1] = 255
    masks[3, 0, :, 1:3] = 255
    masks[2, 0, 0, 1] = 100  # under a half: outside
    masks[:2, 0, :, 2] = 100
    targets = np.array([[0, -1], [0, -1], [0, -1], [0, -1]])
    examples = Examples(features=lambda _: None, masks=masks, targets=targets, states=None)
    found = mean_masks(examples)
    expected = np.full((4, 4), -1, np.float32)
    expected[:, 1] = 1
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[0], expected)
    np.testing.assert_array_equal(found[1], np.full((4, 4), -1, np.float32))  # it means nothing
