import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from sonoray.features.formats import FORMATS

VALUES = st.floats(-60_000, 60_000, width=32)
FEATURES = arrays(np.float32, array_shapes(min_dims=3, max_dims=3, max_side=5), elements=VALUES)


def round_trip(name, features):
    return FORMATS[name].decode(FORMATS[name].encode(features))


@pytest.mark.parametrize("name", sorted(FORMATS))
@settings(max_examples=50, deadline=None)
@given(features=FEATURES)
def test_shape_dtype_and_size_are_what_the_format_says(name, features):
    kept = FORMATS[name]
    stored = kept.encode(features)
    assert stored.dtype == kept.stored
    assert stored[0, 0].nbytes == kept.bytes_per_token(features.shape[-1])
    back = kept.decode(stored)
    assert back.shape == features.shape
    assert back.dtype == kept.read_as


@settings(max_examples=100, deadline=None)
@given(arrays(np.uint32, (1, 1, 64), elements=st.integers(0, 2**32 - 1)))
def test_bfloat16_is_that_of_torch_for_any_bits(bits):
    features = bits.view(np.float32)
    expected = torch.from_numpy(features.copy()).to(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(round_trip("bfloat16", features), expected)


@settings(max_examples=200, deadline=None)
@given(features=FEATURES)
def test_int8_errs_by_half_a_step_of_its_token(features):
    largest = np.abs(features).max(axis=-1, keepdims=True).astype(np.float64)
    error = np.abs(round_trip("int8", features) - features.astype(np.float64))
    # half a step, and what the scale and the product lose as float16 (2^-11 each, or the least
    # float16 there is)
    assert (error <= largest / 254 + largest * 2**-10 + 127 * 2**-24).all()


def test_int8_of_a_known_token():
    features = np.array([[[0.0, 127.0, -63.5, 1.4]]], np.float32)
    stored = FORMATS["int8"].encode(features)
    np.testing.assert_array_equal(stored[0, 0, :4], [0, 127, -64, 1])
    np.testing.assert_array_equal(stored[0, 0, 4:].view(np.float16), [1.0])
    np.testing.assert_array_equal(FORMATS["int8"].decode(stored), [[[0, 127, -64, 1]]])


def test_a_token_of_zeros_stays_one():
    assert not round_trip("int8", np.zeros((1, 2, 3), np.float32)).any()


def test_one_token_does_not_make_another_coarse():
    features = np.array([[[1000.0, 0.0], [0.01, 0.005]]], np.float32)
    np.testing.assert_allclose(round_trip("int8", features)[0, 1], [0.01, 0.005], rtol=0.01)
