from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter

from sonoray.privacy.burned_in_text import FILL, cover, find_text
from sonoray.privacy.text_lines import Box


def find_boxes(picture, **options):
    return [line.box for line in find_text(picture, **options)]


def speckle(seed=0):
    """Tissue-like texture (300, 400) up to about 150, blurred as by a scanner."""
    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.normal(size=(300, 400)), (1.5, 3))
    return np.clip(70 + 30 * field / field.std(), 0, 150).astype(np.uint8)


def write(picture, text, fill, size=16, place=(60, 100)):
    """Draw a line; the picture and the text's ink."""
    font = ImageFont.load_default(size)
    image, ink = Image.fromarray(picture), Image.new("L", picture.shape[1::-1])
    ImageDraw.Draw(image).text(place, text, font=font, fill=fill)
    ImageDraw.Draw(ink).text(place, text, font=font, fill=255)
    return np.asarray(image), np.asarray(ink) >= 128


@pytest.mark.parametrize("size", [12, 16, 24])
@pytest.mark.parametrize("fill", [255, (255, 255, 0)])
@pytest.mark.parametrize("ground", ["black", "speckle"])
def test_a_line_of_text_is_covered(size, fill, ground):
    picture = np.zeros((300, 400), np.uint8) if ground == "black" else speckle()
    if not isinstance(fill, int):
        picture = np.repeat(picture[..., None], 3, axis=2)
    shown, ink = write(picture, "QXVOR 48210377", fill, size)
    covered = cover(shown, find_boxes(shown))
    assert (covered[ink] == FILL).mean() >= 0.9
    assert (covered != shown).mean() < 0.09
    assert not find_boxes(covered)


@pytest.mark.parametrize(("seed", "edge"), [(1, 130), (2, 130), (5, 150)])
def test_a_line_that_runs_into_brighter_tissue_is_covered_whole(seed, edge):
    """One contrast finds its beginning best, another all of it less well."""
    brighter = 100 / (1 + np.exp(-(np.arange(400) - edge) / 8))
    picture = np.clip(speckle(seed) + brighter, 0, 255).astype(np.uint8)
    shown, ink = write(picture, "WFW8W1 JLC2FL", 255)
    assert (cover(shown, find_boxes(shown))[ink] == FILL).mean() >= 0.9


@pytest.mark.parametrize("size", [10, 16, 24])
@pytest.mark.parametrize("edge", ["upper", "lower", "left", "right"])
@pytest.mark.parametrize("ground", ["black", "speckle"])
def test_a_line_that_touches_the_edge_is_covered(size, edge, ground):
    """Its first row or column of ink is that of the picture."""
    picture = np.zeros((300, 400), np.uint8) if ground == "black" else speckle()
    left, upper, right, lower = ImageFont.load_default(size).getbbox("QXVOR 48210377")
    x = {"left": -left, "right": 400 - right}.get(edge, 60)
    y = {"upper": -upper, "lower": 300 - lower}.get(edge, 100)
    shown, ink = write(picture, "QXVOR 48210377", 255, size, (x, y))
    across, down = ink.any(axis=0), ink.any(axis=1)
    assert {"left": across[:2], "right": across[-2:], "upper": down[:2], "lower": down[-2:]}[
        edge
    ].any()
    assert (cover(shown, find_boxes(shown))[ink] == FILL).mean() >= 0.9


@pytest.mark.parametrize("seed", range(3))
def test_grey_text_that_hardly_stands_out_is_read(seed):
    """Letters 30 to 80 grey levels above tissue, which no contrast tells whole from it."""
    picture = np.clip(speckle(seed).astype(int) + 60, 0, 255).astype(np.uint8)
    shown, ink = write(picture, "QXVOR 48210377", 190)
    assert (cover(shown, find_boxes(shown))[ink] == FILL).mean() >= 0.9


def test_dark_text_on_a_bright_ground_is_found():
    shown, ink = write(np.full((300, 400), 230, np.uint8), "QXVOR 48210377", 0)
    assert (cover(shown, find_boxes(shown))[ink] == FILL).mean() >= 0.9


@pytest.mark.parametrize("seed", range(3))
def test_speckle_ticks_and_calipers_are_no_text(seed):
    picture = speckle(seed)
    picture[::40, -8:] = 200
    for y, x in ((90, 120), (200, 260)):
        picture[y - 5 : y + 6, x] = picture[y, x - 5 : x + 6] = 255
    assert find_boxes(picture) == []


@pytest.mark.parametrize("seed", range(3))
def test_bright_speckle_of_old_machines_is_no_text(seed):
    """Sharp, saturated and streaked: whatever of it lies beside each other has no common edge."""
    field = gaussian_filter(np.random.default_rng(seed).normal(size=(220, 160)), (0.6, 1.4))
    picture = np.clip(150 + 110 * field / field.std(), 0, 255).astype(np.uint8)
    assert find_boxes(picture) == []


def sector(radius, opening, dash=0):
    """A scan of a curved transducer (600, 800), bright at its apex, under a dashed bright arc."""
    y, x = np.mgrid[:600, :800]
    centre = 400, 20 - radius * np.cos(np.radians(opening))
    depth = np.hypot(x - centre[0], y - centre[1])
    side = np.abs(np.degrees(np.arctan2(x - centre[0], y - centre[1])))
    field = gaussian_filter(np.random.default_rng(0).normal(size=(600, 800)), (1.5, 3))
    near = 150 * np.exp(-(((depth - radius) / 6) ** 2))
    tissue = np.clip(80 + 45 * field / field.std() + near, 0, 255)
    inside = (depth > radius) & (depth < 560) & (side < opening)
    image = Image.fromarray(np.where(inside, tissue, 0).astype(np.uint8))
    around = max(radius, 40) - 6
    corners = (centre[0] - around, centre[1] - around, centre[0] + around, centre[1] + around)
    for start in range(55, 125, 4) if dash else ():
        ImageDraw.Draw(image).arc(corners, start, start + 2, fill=255, width=dash)
    return np.asarray(image)


@pytest.mark.parametrize("dash", [0, 3, 5])
@pytest.mark.parametrize(("radius", "opening"), [(60, 35), (150, 30), (12, 45)])
def test_a_transducers_arc_and_a_sectors_apex_are_no_text(radius, opening, dash):
    assert find_boxes(sector(radius, opening, dash)) == []


def test_a_ruler_is_no_text():
    picture = np.zeros((600, 800), np.uint8)
    for tick in range(0, 560, 14):
        picture[20 + tick : 22 + tick, 760 : 772 if tick % 70 else 780] = 220
        picture[580 : 588 if tick % 70 else 594, 20 + tick : 22 + tick] = 220
    assert find_boxes(picture) == []


def test_the_same_picture_gives_the_same_boxes_in_every_thread():
    pictures = [write(speckle(seed), "QXVOR 48210377", 190)[0] for seed in range(4)]
    alone = [find_text(picture) for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(find_text, pictures * 3)) == alone * 3
    assert all(alone)


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
    covered = cover(written, find_boxes(written)) == FILL
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
    assert (cover(fringed, find_boxes(fringed))[ink] == FILL).mean() >= 0.9


def test_boxes_stay_within_the_picture_and_the_margin_widens_them():
    shown, _ = write(np.zeros((120, 200), np.uint8), "QXVOR 48210377", 255, 24)
    narrow, wide = (find_boxes(shown, margin=margin)[0] for margin in (0, 1))
    assert wide.left < narrow.left
    assert wide.lower == 120
    assert isinstance(wide, Box)
