import numpy as np
import pytest

from llava_ultra.towers.intensity import BLACK, QUANTILES, REFERENCE, standardise_intensity
from llava_ultra.towers.pixels import letterbox, to_canvas, to_canvases


def scan(gain=1.0, offset=0.0):
    """Smooth speckle of a skewed grey curve, with black beside the scan."""
    greys = np.random.default_rng(0).gamma(4, 14, (120, 100)) * gain + offset
    image = np.clip(np.rint(greys), BLACK, 255).astype(np.uint8)
    image[:, :15] = 0
    return image


def test_quantiles_become_those_of_the_reference_whatever_the_gain():
    for image in (scan(), scan(1.6, 20), scan(0.5)):
        shown = standardise_intensity(image, "quantile")
        found = np.quantile(shown[image >= BLACK], QUANTILES)
        assert np.abs(found - REFERENCE).max() <= 5
        assert np.array_equal(shown[image < BLACK], image[image < BLACK])


def test_the_grey_curve_keeps_the_order_and_is_one_for_the_whole_image():
    image = scan()
    shown = standardise_intensity(image, "quantile")
    levels = [np.unique(shown[image == level]) for level in np.unique(image)]
    assert all(len(level) == 1 for level in levels)
    assert (np.diff([int(level[0]) for level in levels]) >= 0).all()


def test_black_beside_the_scan_changes_nothing():
    image = scan()
    wide = np.pad(image, ((0, 200), (0, 300)))
    for how in ("quantile", "clahe"):
        shown = standardise_intensity(wide, how)
        assert np.array_equal(shown[:120, :100], standardise_intensity(image, how))
        assert not shown[120:].any()


def test_clahe_spreads_each_part_of_the_image():
    image = np.random.default_rng(0).integers(60, 80, (120, 120), dtype=np.uint8)
    image[60:] += 120  # two bands of little contrast
    shown = standardise_intensity(image, "clahe").astype(float)
    assert shown[:60].std() > 1.5 * image[:60].std()
    assert shown[60:].std() > 1.5 * image[60:].std()


@pytest.mark.parametrize("how", ["quantile", "clahe"])
def test_grey_in_three_channels_is_grey_and_colours_keep_their_hue(how):
    image = scan()
    shown = standardise_intensity(image, how)
    assert np.array_equal(
        standardise_intensity(np.stack([image] * 3, axis=-1), how), np.stack([shown] * 3, axis=-1)
    )
    flow = np.stack([image] * 3, axis=-1)
    flow[40:60, 40:60] = (200, 30, 10)
    red, green, blue = standardise_intensity(flow, how)[45:55, 45:55].reshape(-1, 3).mean(axis=0)
    assert red > 2 * green > 2 * blue


@pytest.mark.parametrize("how", ["none", "quantile", "clahe"])
@pytest.mark.parametrize("image", [np.zeros((40, 40), np.uint8), np.full((40, 40), 90, np.uint8)])
def test_an_image_without_contrast_stays_an_image(how, image):
    shown = standardise_intensity(image, how)
    assert shown.shape == image.shape
    assert shown.dtype == np.uint8
    assert len(np.unique(shown)) == 1


def test_a_canvas_is_standardised_at_its_own_size_and_its_padding_stays_black():
    image = scan()
    expected = standardise_intensity(letterbox(image, 64), "quantile")
    assert not expected[:, 54:].any()
    assert np.array_equal(to_canvas(image, 64, "quantile"), expected)
    assert np.array_equal(to_canvases([image], 64, "quantile"), expected[None])
    assert np.array_equal(to_canvases([image], 64), letterbox(image, 64)[None])
    assert not np.array_equal(expected, letterbox(image, 64))
