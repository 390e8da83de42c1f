"""Stored features are found by a name that holds a version of the code that made them."""

import sys

import pytest

from llava_ultra.towers.pixels import PREPROCESSING
from sonoray.digests.code import code_digest

MAKES_FEATURES = (
    "llava_ultra.towers.clip",
    "llava_ultra.towers.sam",
    "llava_ultra.towers.pixels",
    "sonoray.features.formats",
)
PINNED = {
    "letterbox-bilinear-v1": "3ed2354b3847876b8bc92c1f17c5bdd25b8cba3513fff959f24892db90194e9e"
}
"""By `PREPROCESSING`: the digest of the code that makes features of that name."""


@pytest.mark.skipif(
    sys.version_info[:2] != (3, 11), reason="syntax trees differ between Python's minor versions"
)
def test_features_of_other_code_have_another_name():
    assert PINNED.get(PREPROCESSING) == code_digest(*MAKES_FEATURES), (
        "the code that makes features is another; where features change by it, raise the number in "
        "PREPROCESSING, and in both cases pin the digest here"
    )
