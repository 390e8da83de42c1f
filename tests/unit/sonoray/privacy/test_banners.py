import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter

from sonoray.privacy.banners import find_banners, find_scan
from sonoray.privacy.text_lines import Box

SCAN = Box(upper=100, left=120, lower=520, right=680)


def screen(ground=0, ruler=True):
    """A scan (SCAN) on an even ground (600, 800), with a ruler beside it."""
    field = gaussian_filter(np.random.default_rng(0).normal(size=(600, 800)), (1.5, 3))
    picture = np.full((600, 800), ground, np.uint8)
    tissue = np.clip(90 + 40 * field / field.std(), 0, 255).astype(np.uint8)
    inside = np.s_[SCAN.upper : SCAN.lower, SCAN.left : SCAN.right]
    picture[inside] = tissue[inside]
    if ruler:
        picture[100:520:20, 700:708] = 220
        picture[100:520, 700:702] = 220
    return picture


def write(picture, place, text="QXVOR 48210377"):
    image = Image.fromarray(picture)
    font = ImageFont.load_default(16)
    ImageDraw.Draw(image).text(place, text, font=font, fill=230)
    left, upper, right, lower = font.getbbox(text)
    x, y = place
    return np.asarray(image), Box(upper=y + upper, left=x + left, lower=y + lower, right=x + right)


@pytest.mark.parametrize("ground", [0, 35])
def test_the_scan_is_told_from_what_is_around_it(ground):
    shown, box = write(screen(ground), (20, 20))
    other, _ = write(shown, (420, 560))  # a line that was not found is no scan either
    scan = find_scan(other, [box])
    for side in ("upper", "left", "lower", "right"):
        assert abs(getattr(scan, side) - getattr(SCAN, side)) <= 16, side


@pytest.mark.parametrize(
    ("place", "corner"), [((300, 20), (0, 0)), ((300, 560), (599, 799)), ((2, 300), (300, 0))]
)
@pytest.mark.parametrize("is_colour", [False, True])
def test_the_strip_that_holds_text_is_a_banner_from_edge_to_edge(place, corner, is_colour):
    shown, box = write(screen(), place)
    if is_colour:
        shown = np.repeat(shown[..., None], 3, axis=2)
    (strip,) = find_banners(shown, [box])
    assert strip.overlap(box) >= 0.5 * box.area
    assert strip.overlap(SCAN) <= 0.03 * SCAN.area
    assert strip.upper <= corner[0] < strip.lower
    assert strip.left <= corner[1] < strip.right
    assert strip.lower - strip.upper == 600 or strip.right - strip.left == 800


def test_a_line_in_a_corner_takes_the_strip_above_and_not_the_one_beside():
    shown, box = write(screen(), (2, 20))
    (strip,) = find_banners(shown, [box])
    assert (strip.left, strip.right) == (0, 800)


def test_both_halves_of_a_split_screen_are_the_scan():
    picture = screen()
    picture[:, 380:420] = 0
    shown, box = write(picture, (500, 20))
    (strip,) = find_banners(shown, [box])
    assert strip.lower <= SCAN.upper


def test_text_in_the_scan_makes_no_banner():
    shown, box = write(screen(), (300, 300))
    assert find_banners(shown, [box]) == []


def test_no_strip_is_known_where_tissue_fills_the_picture_or_nothing_does():
    tissue, box = write(np.ascontiguousarray(screen()[100:520, 120:680]), (20, 20))
    assert find_banners(tissue, [box]) == []
    empty, box = write(np.zeros((600, 800), np.uint8), (20, 20))
    assert find_scan(empty, [box]) is None
    assert find_banners(empty, [box]) == []
