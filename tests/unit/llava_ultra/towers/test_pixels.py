import numpy as np
import pytest
import torch

from llava_ultra.towers.pixels import letterbox, normalise, random_views, to_masks, to_pixels


def test_letterbox_keeps_the_shape_and_pads_right_and_bottom():
    tall = np.full((100, 50), 200, np.uint8)
    canvas = letterbox(tall, 64)
    assert canvas.shape == (64, 64, 3)
    assert (canvas[:, :32] == 200).all()
    assert (canvas[:, 32:] == 0).all()


def test_pixels_are_normalised_and_grey_equals_colour():
    grey = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    pixels = to_pixels([grey], 64)
    assert pixels.shape == (1, 3, 64, 64)
    assert torch.allclose(pixels[0, 0], (torch.tensor(grey) / 255.0 - 0.25) / 0.25)
    assert torch.equal(pixels, to_pixels([np.stack([grey] * 3, axis=-1)], 64))
    assert torch.equal(pixels, normalise(letterbox(grey, 64)[None]))


def test_masks_follow_their_images():
    image, mask = np.zeros((80, 40), np.uint8), np.zeros((80, 40), np.uint8)
    mask[40:80, 0:20] = 255
    image[40:80, 0:20] = 255
    mask[60:80, 0:20] = 128
    small, level = to_masks([mask], 16, [128])[0]
    assert torch.allclose(small[9:16, 0:3], torch.ones(7, 3))  # edges are smoothed
    assert small.sum() == pytest.approx(32, abs=6)
    assert level.sum() == pytest.approx(16, abs=4)
    assert not level[:11].any()
    assert (to_pixels([image], 16)[0, 0] > 0).nonzero()[:, 0].min() >= 7


@pytest.mark.parametrize("mirror", [False, True])
def test_views_move_masks_with_pixels(mirror):
    pixels = torch.full((6, 3, 64, 64), -1.0)  # -1 is black
    masks = torch.zeros(6, 2, 64, 64)
    pixels[:, :, 10:30, 34:60] = 2.0
    masks[:, :, 10:30, 34:60] = 1.0
    views, moved = random_views(pixels, torch.Generator().manual_seed(0), masks, mirror=mirror)
    assert torch.equal(moved[:, 0], moved[:, 1])
    moved = moved[:, 0]
    bright = views[:, 0] > 0.2
    agreement = (bright == (moved > 0.5)).float().mean()
    assert agreement > 0.98
    centres = torch.stack([mask.nonzero().float().mean(0) for mask in moved])
    assert len({tuple(centre.round().tolist()) for centre in centres}) > 1
    assert bool((centres[:, 1] < 28).any()) == mirror  # the square lies right of the middle


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((15, 40), np.uint8), "40 x 15 pixels"),
        (np.zeros((40, 40), np.float32), "float32"),
        (np.zeros((4, 40, 40, 3), np.uint8), "of shape"),
    ],
)
def test_what_is_no_picture_is_refused(image, message):
    with pytest.raises(ValueError, match=message):
        letterbox(image, 32)


@pytest.mark.parametrize("num_channels", [1, 2, 4])
def test_a_picture_of_other_channels_than_three_is_refused(num_channels):
    with pytest.raises(ValueError, match=rf"shape \(40, 40, {num_channels}\); give uint8"):
        letterbox(np.zeros((40, 40, num_channels), np.uint8), 32)
