"""Learning on planted features: a cell shows what lies there, a state says which of it is meant."""

import numpy as np
import pytest
import torch

from llava_ultra.segmentation.mask_learning import Examples, iou, learn
from llava_ultra.segmentation.segmentation_config import SegmentationConfig
from llava_ultra.segmentation.segmenter import Prompt, SegmenterShape

QUICK = SegmentationConfig(
    steps=600, batch_size=16, learning_rate=7e-3, width=16, heads=2, hidden=16, depth=1, noise=0.1
)


def shape(settings=QUICK):
    return SegmenterShape(
        settings=settings, image_size=64, sam_grid=4, clip_grid=4, channels=3, state_width=2
    )


def planted(num=60, seed=0):
    """Two things lie in two of 4 x 4 cells; the first channel shows one, the second the other.

    The first instruction means one, the second the other, which every third image lacks.
    """
    rng = np.random.default_rng(seed)
    features = rng.normal(0, 0.2, (num, 16, 3)).astype(np.float32)
    masks = np.zeros((num, 3, 16, 16), np.uint8)
    targets = np.tile(np.array([1, 2]), (num, 1))
    for number in range(num):
        cells = rng.choice(16, 2, replace=False)
        for thing, cell in enumerate(cells):
            if thing and number % 3 == 0:
                targets[number, 1] = -1
                continue
            features[number, cell, thing] += 3
            row, column = divmod(int(cell), 4)
            place = np.s_[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            masks[number, 0][place] = masks[number, 1 + thing][place] = 255
    states = np.tile(np.array([[[1, 0], [0, 1]]], np.float32), (num, 1, 1))
    return Examples(
        features=lambda chosen: features[list(chosen)], masks=masks, targets=targets, states=states
    )


@pytest.fixture(scope="module")
def learned():
    return learn(planted(), shape())


@torch.no_grad()
def outlined(segmenter, examples, prompt):
    features = torch.from_numpy(examples.features(range(len(examples.masks))))
    logits, _ = segmenter(features, prompt)
    return logits > 0


def test_words_say_which_of_two_things_is_outlined(learned):
    segmenter, losses = learned
    assert np.mean(losses[-12:]) < 0.4 * np.mean(losses[:4])
    new = planted(seed=1)
    shown = new.targets[:, 1] >= 0
    for instruction in (0, 1):
        prompt = Prompt(states=torch.from_numpy(new.states[:, instruction]))
        found = outlined(segmenter, new, prompt)
        own, other = (torch.from_numpy(new.masks[:, each] > 127) for each in (1, 2))
        right, wrong = (own, other) if instruction == 0 else (other, own)
        assert float(iou(found, right)[shown].mean()) > 0.6
        assert float(iou(found, wrong)[shown].mean()) < 0.2
        if instruction == 1:  # nothing where there is none
            assert float((~found[~shown]).flatten(1).all(dim=1).float().mean()) > 0.8


def test_a_box_outlines_what_it_is_drawn_around(learned):
    segmenter, _ = learned
    new = planted(seed=2)
    truth = torch.from_numpy(new.masks[:, 1] > 127)
    corners = []
    for mask in truth:
        rows, columns = torch.where(mask)
        corners.append([columns.min() * 4, rows.min() * 4, columns.max() * 4, rows.max() * 4])
    found = outlined(segmenter, new, Prompt(boxes=torch.tensor(corners).float()))
    assert float(iou(found, truth).mean()) > 0.5


def test_the_same_seed_learns_the_same(learned):
    settings = QUICK.model_copy(update={"steps": 4})
    one, other = (learn(planted(12), shape(settings)) for _ in range(2))
    assert one[1] == other[1]
    for name, value in one[0].state_dict().items():
        torch.testing.assert_close(other[0].state_dict()[name], value, rtol=0, atol=0)
    another = learn(planted(12), shape(settings.model_copy(update={"seed": 1})))
    assert another[1] != one[1]


def test_instructions_that_mean_nothing_are_refused():
    examples = planted(12)
    examples.targets[:] = -1
    with pytest.raises(ValueError, match="means anything"):
        learn(examples, shape())
