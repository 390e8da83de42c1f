import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from llava_ultra.perturbations.artefacts import HazePerturbation, ShadowPerturbation
from llava_ultra.perturbations.echo import GainPerturbation, GammaPerturbation
from llava_ultra.perturbations.frame import JpegPerturbation, ZoomPerturbation
from llava_ultra.perturbations.gallery import (
    GALLERY,
    PERTURBATIONS,
    PerturbationConfig,
    draw_view,
    draw_views,
)
from llava_ultra.perturbations.perturbation import add_decibels
from llava_ultra.perturbations.screen import CaliperPerturbation, TintPerturbation
from llava_ultra.perturbations.texture import BlurPerturbation, SpecklePerturbation

COLOUR = np.random.default_rng(0).integers(1, 256, (60, 40, 3), dtype=np.uint8)
GREY = COLOUR[..., 0]


def rng(seed=0):
    return np.random.default_rng(seed)


def scan():
    """Speckle in a scan area with black beside it."""
    image = rng().integers(40, 160, (80, 100), dtype=np.uint8)
    image[:, :20] = image[:, 80:] = 0
    return image


@pytest.mark.parametrize("perturbation", PERTURBATIONS, ids=lambda each: each.type)
@pytest.mark.parametrize("image", [GREY, COLOUR], ids=["grey", "colour"])
def test_every_perturbation_takes_and_gives_an_image_and_repeats(perturbation, image):
    before = image.copy()
    full = perturbation.apply(image, 1.0, rng(3))
    assert full.dtype == np.uint8
    assert perturbation.type == "tint" or full.ndim == image.ndim
    assert perturbation.moves or full.shape[:2] == image.shape[:2]
    assert not np.array_equal(full, image)
    assert np.array_equal(full, perturbation.apply(image, 1.0, rng(3)))
    assert np.array_equal(perturbation.apply(image, 0.0, rng(3)), image)
    assert np.array_equal(image, before)


@pytest.mark.parametrize(
    "perturbation", [each for each in PERTURBATIONS if not each.moves], ids=lambda each: each.type
)
def test_more_strength_is_farther_from_the_image(perturbation):
    image = scan()

    def away(strength):
        shown = [perturbation.apply(image, strength, rng(seed)) for seed in range(4)]
        return np.mean([np.abs(each.T.astype(int) - image.T).mean() for each in shown])

    assert 0 < away(0.3) < away(0.6) < away(1.0)


@pytest.mark.parametrize(
    "perturbation",
    [
        GainPerturbation(),
        GammaPerturbation(),
        SpecklePerturbation(),
        ShadowPerturbation(),
        HazePerturbation(),
        TintPerturbation(),
    ],
)
def test_what_is_black_stays_black(perturbation):
    shown = perturbation.apply(scan(), 1.0, rng())
    assert not shown[:, :20].any()
    assert not shown[:, 80:].any()


def test_a_decibel_is_four_grey_values_and_a_quarter():
    louder = add_decibels(np.array([[0, 40, 254]], np.uint8), np.full((1, 1), 4, np.float32))
    assert louder.tolist() == [[0, 57, 255]]
    quieter = add_decibels(np.array([[0, 40, 254]], np.uint8), np.full((1, 1), -12, np.float32))
    assert quieter.tolist() == [[0, 0, 203]]


def test_gain_differs_by_depth_alone():
    shown = GainPerturbation(most_db=6).apply(np.full((100, 8), 128, np.uint8), 1.0, rng(1))
    change = shown.astype(int) - 128
    assert (change == change[:, :1]).all()
    assert len(np.unique(change)) > 5
    assert np.abs(change).max() <= np.ceil(6 * 4.25)


def test_gamma_keeps_order_black_and_white():
    curve = GammaPerturbation(most=2).apply(np.arange(256, dtype=np.uint8)[None], 1.0, rng(0))[0]
    assert (np.diff(curve.astype(int)) >= 0).all()
    assert (curve[0], curve[255]) == (0, 255)
    assert curve[128] in (64, 181)  # 2 and 1/2


def test_speckle_is_wider_than_long():
    image = np.full((200, 200), 128, np.uint8)
    noise = SpecklePerturbation(most_db=4).apply(image, 1.0, rng()).astype(float) - 128
    assert noise.std() == pytest.approx(4 * 4.25, rel=0.05)

    def correlation(one, other):
        return np.corrcoef(one.ravel(), other.ravel())[0, 1]

    along, across = correlation(noise[1:], noise[:-1]), correlation(noise[:, 1:], noise[:, :-1])
    assert 0.2 < along < across < 0.95


def test_blur_grows_with_depth():
    stripes = np.tile(np.array([0, 255] * 50, np.uint8), (100, 1))
    shown = BlurPerturbation(most=0.02).apply(stripes, 1.0, rng(5)).astype(float)
    contrast = shown.std(axis=1)
    assert contrast[0] > contrast[50] > contrast[90]
    assert contrast[-1] < 20


def test_zoom_crops_and_pads_and_resamples_nothing():
    sizes = set()
    image = rng(2).integers(1, 256, (50, 70), dtype=np.uint8)
    for seed in range(30):
        shown = ZoomPerturbation(most=1.5).apply(image, 1.0, rng(seed))
        height, width = shown.shape
        sizes.add((height > 50, width > 70))
        assert 33 <= height <= 75
        assert 46 <= width <= 105
        inside = shown[np.ix_(shown.any(axis=1), shown.any(axis=0))]
        assert any(
            np.array_equal(inside, image[top : top + len(inside), left : left + inside.shape[1]])
            for top in range(51 - len(inside))
            for left in range(71 - inside.shape[1])
        )
    assert len(sizes) == 4  # each side by itself
    tiny = ZoomPerturbation(most=4).apply(np.ones((20, 20), np.uint8), 1.0, rng(1))
    assert min(tiny.shape) >= 16


def test_jpeg_is_what_pillow_reads():
    shown = JpegPerturbation(worst_quality=10).apply(scan(), 1.0, rng())
    assert np.abs(shown.astype(int) - scan()).mean() > 5
    assert JpegPerturbation().apply(COLOUR, 0.5, rng()).shape == COLOUR.shape


def test_a_shadow_is_a_dark_strip_that_reaches_the_bottom():
    image = np.full((100, 100), 200, np.uint8)
    shown = ShadowPerturbation(most_db=40, widest=0.4).apply(image, 1.0, rng(1))
    dark = shown < 100
    (columns,) = np.nonzero(dark.any(axis=0))
    assert 25 <= len(columns) <= 40
    assert (np.diff(columns) == 1).all()
    assert dark[-1, columns].all()
    assert not dark[0].any()
    assert shown.min() == 200 - 40 * 4.25


def test_haze_fills_what_is_free_of_echo_near_the_surface_and_adds_amplitudes():
    image = scan()
    image[10:12, 40:42] = 0  # smaller than the neighbourhood that tells the scan
    shown = HazePerturbation(loudest_db=-10).apply(image, 1.0, rng(2))
    assert (shown.astype(int) >= image).all()
    assert (shown[10:12, 40:42] > 60).all()
    added = shown.astype(int) - image
    assert added[:20, 20:80].mean() > 1.5 * added[60:, 20:80].mean()
    bright = HazePerturbation(loudest_db=-30).apply(np.full((80, 80), 250, np.uint8), 1.0, rng(2))
    assert np.abs(bright.astype(int) - 250).max() <= 4  # -30 dB beside -1 dB


def test_calipers_come_in_pairs_and_more_keep_the_first():
    black = np.zeros((100, 120), np.uint8)
    few = CaliperPerturbation(most=3).apply(black, 0.3, rng(4))
    many = CaliperPerturbation(most=3).apply(black, 1.0, rng(4))
    assert set(np.unique(few)) == {0, 255}
    assert (many[few > 0] == 255).all()
    assert (many > 0).sum() > 1.5 * (few > 0).sum()


def test_a_tint_keeps_the_luma_of_dark_greys():
    grey = np.full((4, 4), 60, np.uint8)
    shown = TintPerturbation(most=0.5).apply(grey, 1.0, rng(1)).astype(float)
    assert shown.shape == (4, 4, 3)
    assert np.ptp(shown[0, 0]) > 10
    assert shown[0, 0] @ [0.299, 0.587, 0.114] == pytest.approx(60, abs=2)


def test_a_view_is_a_function_of_its_seed_and_most_views_differ():
    views = [draw_view(scan(), GALLERY, seed) for seed in range(20)]
    assert all(np.array_equal(draw_view(scan(), GALLERY, n), views[n]) for n in range(20))
    assert len({view.tobytes() for view in views}) > 17
    assert np.array_equal(draw_view(scan(), (), 0), scan())
    never = [each.model_copy(update={"rate": 0.0}) for each in GALLERY]
    assert all(np.array_equal(draw_view(scan(), never, seed), scan()) for seed in range(5))


def test_a_mask_goes_where_its_image_goes():
    image = np.full((60, 60), 20, np.uint8)
    mask = np.zeros((60, 60), np.uint8)
    mask[20:40, 25:45] = 128
    image[mask > 0] = 200
    only = (ZoomPerturbation(rate=1), GainPerturbation(rate=0), JpegPerturbation(rate=0))
    for seed in range(10):
        shown, moved = draw_views(image, mask, only, seed)
        assert shown.shape == moved.shape
        assert np.array_equal(shown == 200, moved == 128)
    assert draw_views(image, None, GALLERY, 0)[1] is None


@pytest.mark.parametrize(
    "values",
    [{"type": "gain", "most_db": 0}, {"type": "zoom", "most": 1}, {"type": "jpeg", "rate": 2},
     {"type": "speckle", "most": 3}, {"type": "fog"}],
)  # fmt: skip
def test_settings_out_of_range_are_refused(values):
    with pytest.raises(ValidationError):
        TypeAdapter(PerturbationConfig).validate_python(values)


def test_an_image_of_pil_is_no_exception():
    """A read-only array, as PIL hands it out."""
    image = np.asarray(Image.fromarray(scan()))
    for perturbation in PERTURBATIONS:
        assert not np.array_equal(perturbation.apply(image, 1.0, rng()), image)
