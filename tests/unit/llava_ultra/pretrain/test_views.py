import numpy as np
import torch

from llava_ultra.perturbations.echo import GainPerturbation, GammaPerturbation
from llava_ultra.perturbations.frame import ZoomPerturbation
from llava_ultra.pretrain.pretrain_config import SamPretrainConfig
from llava_ultra.pretrain.views import ViewMaker
from llava_ultra.towers.pixels import normalise, random_views, to_canvases

SIZE = 64
INDEX = torch.tensor([1, 0])


def scans():
    rng = np.random.default_rng(0)
    images = [rng.integers(20, 60, shape, dtype=np.uint8) for shape in ((90, 60), (40, 80))]
    masks = [np.zeros_like(image) for image in images]
    for image, mask in zip(images, masks, strict=True):
        mask[10:30, 15:40] = 255
        image[mask > 0] = 220
    return images, masks


def maker(perturbations=(), seed=0, *, masks=(), intensity="none"):
    images, _ = scans()
    return ViewMaker(
        images, SIZE, SamPretrainConfig(perturbations=perturbations),
        torch.Generator().manual_seed(seed), masks=masks, mask_size=SIZE, intensity=intensity,
    )  # fmt: skip


def test_without_perturbations_views_are_zoomed_and_shifted_canvases():
    views, masks = maker(masks=scans()[1]).draw(INDEX)
    canvases = normalise(to_canvases(scans()[0], SIZE)[[1, 0]])
    expected, _ = random_views(canvases, torch.Generator().manual_seed(0))
    assert torch.equal(views, expected)
    assert masks.shape == (2, 1, SIZE, SIZE)
    assert maker().draw(INDEX)[1] is None


def test_perturbed_views_differ_each_time_and_repeat_with_the_generators_seed():
    gain = (GainPerturbation(rate=1),)
    first = maker(gain)
    views = [first.draw(INDEX)[0] for _ in range(2)]
    assert not torch.equal(views[0], views[1])
    assert torch.equal(maker(gain).draw(INDEX)[0], views[0])
    assert not torch.equal(maker(gain, seed=1).draw(INDEX)[0], views[0])


def test_masks_follow_a_zoom():
    zoom = (ZoomPerturbation(rate=1, most=1.5),)
    made = maker(zoom, masks=scans()[1])
    for _ in range(5):
        views, masks = made.draw(INDEX)
        bright = views[:, 0] > 1.6  # lesions are at 2.45, tissue below 0
        assert (bright == (masks[:, 0] > 0.5)).float().mean() > 0.98
        assert bright.any(dim=(1, 2)).all()


def test_a_perturbed_image_is_standardised_after_that():
    """So that of another grey curve next to nothing is left, where greys are standardised."""
    images, _ = scans()
    gamma = (GammaPerturbation(rate=1),)

    def left(intensity):
        made = maker(gamma, intensity=intensity)
        plain = to_canvases(images, SIZE, intensity)[[0] * 8].astype(int)
        return np.abs(made._perturb([0] * 8, [])[0] - plain).mean()

    assert left("quantile") < 0.2 * left("none")
