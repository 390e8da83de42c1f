"""Images that were encoded before are not encoded again, and the study is the same to the bit."""

import asyncio

import numpy as np
import pytest

from sonoray_serve.http.testing import random_study
from sonoray_serve.messages import EncodedStudy
from sonoray_serve.replicas.loading import ModelSource
from sonoray_serve.replicas.vision import Vision, image_digest


def test_a_known_image_is_not_encoded_again(source: ModelSource, monkeypatch: pytest.MonkeyPatch):
    vision = Vision(source, num_threads=1, weights_check_period_s=300, image_bytes=10_000_000)
    seen: list[int] = []
    fuse = vision._encoder.fuse
    monkeypatch.setattr(
        vision._encoder, "fuse", lambda images: (seen.append(len(images)), fuse(images))[1]
    )

    def encode(images: list[np.ndarray]) -> EncodedStudy:
        study = asyncio.run(vision.encode(images, asyncio.run(vision.ready())))
        assert isinstance(study, EncodedStudy)
        return study

    a, b, c = random_study(3)
    first = encode([a, b])
    again = encode([a, b])
    np.testing.assert_array_equal(first.tokens, again.tokens)
    np.testing.assert_array_equal(first.feature_scores, again.feature_scores)
    more = encode([c, b, b])
    np.testing.assert_array_equal(more.tokens[1], first.tokens[1])
    np.testing.assert_array_equal(more.tokens[1], more.tokens[2])
    assert seen == [2, 1]


def test_an_image_is_named_by_its_pixels_and_its_shape():
    flat = np.zeros((4, 6), dtype=np.uint8)
    assert image_digest(flat) == image_digest(flat.copy())
    assert image_digest(flat) != image_digest(flat.reshape(6, 4))
    assert image_digest(flat) != image_digest(flat + 1)
