"""Prototypes of conditions: the nearest one is recognised, and its moments become clean ones."""

import numpy as np
import pytest

from llava_ultra.perturbations.calibration import CLEAN, Prototypes, describe


def features(seed, shift=0.0, scale=1.0, images=12):
    """Images whose channels differ, with noise of each image's own."""
    rng = np.random.default_rng(seed)
    found = {}
    for tower, (tokens, channels) in {"clip": (9, 4), "sam": (16, 6)}.items():
        base = np.linspace(-2, 2, channels)
        own = 0.1 * rng.standard_normal((images, 1, channels))
        values = base + own + rng.standard_normal((images, tokens, channels))
        found[tower] = ((values - base) * scale + base + shift).astype(np.float32)
    return found


CHANGES = ((0.0, 1.0), (1.5, 1.0), (0.0, 0.4))


@pytest.fixture
def prototypes():
    parts = [features(number, *change, images=200) for number, change in enumerate(CHANGES)]
    described = [describe(part) for part in parts]
    return Prototypes.fit(
        {tower: np.concatenate([each[tower] for each in described]) for tower in ("clip", "sam")},
        np.repeat(range(len(CHANGES)), 200),
    )


def test_each_condition_is_recognised_on_other_images(prototypes):
    for number, change in enumerate(CHANGES):
        found = prototypes.recognise(features(10 + number, *change))
        assert (found == number).mean() > 0.9


@pytest.mark.parametrize("number", [1, 2])
def test_restored_features_have_the_moments_of_clean_ones(prototypes, number):
    clean, moved = features(20), features(20, *CHANGES[number])
    restored = prototypes.restore(moved, np.full(12, number))
    for tower, values in restored.items():
        assert values.dtype == np.float32
        before = np.abs(moved[tower] - clean[tower]).mean()
        assert np.abs(values - clean[tower]).mean() < 0.25 * before


def test_what_images_show_does_not_hide_a_small_change():
    """Images differ by far more than the condition does, in a direction of their own."""
    rng = np.random.default_rng(0)
    content, change = np.array([1.0, 1.0, 0, 0]), np.array([0.3, -0.3, 0, 0])

    def some(change, images):
        own = rng.standard_normal((images, 1, 1)) * content
        noise = 0.05 * rng.standard_normal((images, 9, 4))
        return {"clip": own + noise + change}

    described = [describe(some(each, 100))["clip"] for each in (0 * change, change)]
    made = Prototypes.fit({"clip": np.concatenate(described)}, np.repeat([0, 1], 100))
    assert (made.recognise(some(0 * change, 50)) == 0).mean() > 0.95
    assert (made.recognise(some(change, 50)) == 1).mean() > 0.95


def test_what_is_taken_for_clean_stays_bit_for_bit(prototypes):
    given = features(30)
    restored = prototypes.restore(given, np.full(12, CLEAN))
    assert all(np.array_equal(restored[tower], given[tower]) for tower in given)


def test_a_constant_channel_is_moved_and_not_scaled_to_infinity():
    clean, other = features(1), features(2)
    for part, value in ((clean, 1.0), (other, 3.0)):
        part["clip"][..., 0] = value
    described = [describe(part) for part in (clean, other)]
    made = Prototypes.fit(
        {tower: np.concatenate([each[tower] for each in described]) for tower in clean},
        [0] * 12 + [1] * 12,
    )
    restored = made.restore(other, np.ones(12, int))
    assert np.isfinite(restored["clip"]).all()
    assert restored["clip"][..., 0] == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("conditions", [[0, 2, 0], [0, 1, 1]])
def test_a_condition_without_images_is_refused(conditions):
    described = {tower: values[:3] for tower, values in describe(features(1)).items()}
    with pytest.raises(ValueError, match="an image of every condition and two clean ones"):
        Prototypes.fit(described, conditions)
