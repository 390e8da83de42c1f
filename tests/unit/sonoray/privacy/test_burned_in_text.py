import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter

from sonoray.privacy.burned_in_text import FILL, cover, find_text
from sonoray.privacy.text_lines import Box


def speckle(seed=0):
    """Tissue-like texture (300, 400) up to about 150, blurred as by a scanner."""
    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.normal(size=(300, 400)), (1.5, 3))
    return np.clip(70 + 30 * field / field.std(), 0, 150).astype(np.uint8)


def write(picture, text, fill, size=16):
    """Draw a line at (60, 100); the picture and the text's ink."""
    font = ImageFont.load_default(size)
    image, ink = Image.fromarray(picture), Image.new("L", picture.shape[1::-1])
    ImageDraw.Draw(image).text((60, 100), text, font=font, fill=fill)
    ImageDraw.Draw(ink).text((60, 100), text, font=font, fill=255)
    return np.asarray(image), np.asarray(ink) >= 128


@pytest.mark.parametrize("size", [12, 16, 24])
@pytest.mark.parametrize("fill", [255, (255, 255, 0)])
@pytest.mark.parametrize("ground", ["black", "speckle"])
def test_a_line_of_text_is_covered(size, fill, ground):
    picture = np.zeros((300, 400), np.uint8) if ground == "black" else speckle()
    if not isinstance(fill, int):
        picture = np.repeat(picture[..., None], 3, axis=2)
    shown, ink = write(picture, "QXVOR 48210377", fill, size)
    covered = cover(shown, find_text(shown))
    assert (covered[ink] == FILL).mean() >= 0.9
    assert (covered != shown).mean() < 0.09
    assert not find_text(covered)


@pytest.mark.parametrize(("seed", "edge"), [(1, 130), (2, 130), (5, 150)])
def test_a_line_that_runs_into_brighter_tissue_is_covered_whole(seed, edge):
    """One contrast finds its beginning best, another all of it less well."""
    brighter = 100 / (1 + np.exp(-(np.arange(400) - edge) / 8))
    picture = np.clip(speckle(seed) + brighter, 0, 255).astype(np.uint8)
    shown, ink = write(picture, "WFW8W1 JLC2FL", 255)
    assert (cover(shown, find_text(shown))[ink] == FILL).mean() >= 0.9


def test_dark_text_on_a_bright_ground_is_found():
    shown, ink = write(np.full((300, 400), 230, np.uint8), "QXVOR 48210377", 0)
    assert (cover(shown, find_text(shown))[ink] == FILL).mean() >= 0.9


@pytest.mark.parametrize("seed", range(3))
def test_speckle_ticks_and_calipers_are_no_text(seed):
    picture = speckle(seed)
    picture[::40, -8:] = 200
    for y, x in ((90, 120), (200, 260)):
        picture[y - 5 : y + 6, x] = picture[y, x - 5 : x + 6] = 255
    assert find_text(picture) == []


@pytest.mark.parametrize("seed", range(3))
def test_bright_speckle_of_old_machines_is_no_text(seed):
    """Sharp, saturated and streaked: whatever of it lies beside each other has no common edge."""
    field = gaussian_filter(np.random.default_rng(seed).normal(size=(220, 160)), (0.6, 1.4))
    picture = np.clip(150 + 110 * field / field.std(), 0, 255).astype(np.uint8)
    assert find_text(picture) == []


def colour_flow(picture, seed, maps):
    """Vessels drawn over (300, 400) tissue, in colours that run with the speed of their blood."""
    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.normal(size=picture.shape), (3, 6))
    speed = np.clip(field / field.std() - 0.8, 0, 1.2) / 1.2
    side = gaussian_filter(rng.normal(size=picture.shape), 30) > 0
    speed[:40], speed[260:], speed[:, :40], speed[:, 360:] = 0, 0, 0, 0
    shown = np.repeat(picture[..., None], 3, axis=2)
    for one, (slow, fast) in zip((side, ~side), maps, strict=True):
        blood = one & (speed > 0)
        share = speed[blood][:, None]
        shown[blood] = (1 - share) * np.array(slow) + share * np.array(fast)
    return shown, speed > 0


POWER = [((90, 0, 0), (255, 255, 0))] * 2
VELOCITY = [((110, 0, 0), (255, 220, 60)), ((0, 0, 110), (90, 240, 255))]


@pytest.mark.parametrize("maps", [POWER, VELOCITY])
@pytest.mark.parametrize("seed", range(3))
def test_colour_flow_is_no_text(seed, maps):
    shown, blood = colour_flow(speckle(seed), seed, maps)
    assert blood.mean() > 0.05
    written, ink = write(
        np.concatenate([np.zeros((140, 400, 3), np.uint8), shown]), "QXVOR 48", 255
    )
    covered = cover(written, find_text(written)) == FILL
    assert covered[ink].mean() >= 0.9
    assert covered[140:][blood].mean() <= 0.02


@pytest.mark.parametrize("size", [12, 16, 24])
def test_text_with_the_coloured_fringes_of_a_screen_is_covered(size):
    font = ImageFont.load_default(3 * size)
    fine = Image.new("L", (1200, 300))
    ImageDraw.Draw(fine).text((60, 90), "QXVOR 48210377", font=font, fill=255)
    thirds = np.asarray(fine.resize((1200, 100), Image.Resampling.BOX))
    fringed = np.stack([thirds[:, third::3] for third in range(3)], axis=2)  # red, green, blue
    ink = fringed[..., 1] >= 128
    assert (cover(fringed, find_text(fringed))[ink] == FILL).mean() >= 0.9


def test_boxes_stay_within_the_picture_and_the_margin_widens_them():
    shown, _ = write(np.zeros((120, 200), np.uint8), "QXVOR 48210377", 255, 24)
    narrow, wide = (find_text(shown, margin=margin)[0] for margin in (0, 1))
    assert wide.left < narrow.left
    assert wide.lower == 120
    assert isinstance(wide, Box)
