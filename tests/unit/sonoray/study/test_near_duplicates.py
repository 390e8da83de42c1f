import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from sonoray.study import near_duplicates
from sonoray.study.near_duplicates import (
    NUM_BITS,
    connected_labels,
    describe_rule,
    group_near_duplicates,
    near_pairs,
    perceptual_hash,
)


def picture(seed):
    """A speckled picture: blurred noise with bright and dark areas, (180, 150)."""
    noise = np.random.default_rng(seed).integers(0, 256, (180, 150), dtype=np.uint8)
    blurred = np.asarray(Image.fromarray(noise).filter(ImageFilter.GaussianBlur(8)), dtype=float)
    stretched = (blurred - blurred.min()) / np.ptp(blurred) * 200 + noise / 255 * 40
    return stretched.astype(np.uint8)


def distance(one, other):
    a, b = (np.frombuffer(value[:32], np.uint8) for value in (one, other))
    return int(np.bitwise_count(a ^ b).sum())


def as_jpeg(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=60)
    return np.asarray(Image.open(buffer))


def with_calipers(pixels):
    marked = pixels.copy()
    marked[60:63, 40:46] = marked[120:123, 90:96] = 255
    return marked


COPIES = {
    "jpeg": as_jpeg,
    "half": lambda p: np.asarray(Image.fromarray(p).resize((75, 90), Image.Resampling.BICUBIC)),
    "gain": lambda p: np.clip(p * 1.2, 0, 255).astype(np.uint8),
    "calipers": with_calipers,
    "colour": lambda p: np.stack([p] * 3, axis=-1),
}


@pytest.mark.parametrize("name", COPIES)
def test_copies_of_a_picture_are_near_and_other_pictures_are_far(name):
    originals = [picture(seed) for seed in range(6)]
    hashes = [perceptual_hash(pixels) for pixels in originals]
    hashes += [perceptual_hash(COPIES[name](pixels)) for pixels in originals]
    assert group_near_duplicates(hashes, 24) == [*range(6), *range(6)]


def test_a_mirrored_picture_is_another_one():
    assert distance(perceptual_hash(picture(0)), perceptual_hash(picture(0)[:, ::-1])) > 60


def test_pictures_without_structure_match_nothing():
    black, grey = np.zeros((50, 50), np.uint8), np.full((50, 50), 128, np.uint8)
    assert perceptual_hash(black) is None
    assert perceptual_hash(grey) is None
    assert group_near_duplicates([None, None], 24) == [0, 1]


def flip(value, bits):
    array = np.unpackbits(np.frombuffer(value, np.uint8)).copy()
    array[list(bits)] ^= 1
    return np.packbits(array).tobytes()


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_search_finds_exactly_what_comparing_pair_by_pair_finds(data):
    base = data.draw(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=4))
    bits = st.sets(st.integers(0, NUM_BITS - 1), max_size=12)
    hashes = [
        None if data.draw(st.integers(0, 9)) == 0 else flip(data.draw(st.sampled_from(base)), flips)
        for flips in data.draw(st.lists(bits, min_size=1, max_size=12))
    ]
    limit = data.draw(st.integers(0, 20))
    pairs = [
        (a, b)
        for a, one in enumerate(hashes)
        for b, other in enumerate(hashes)
        if a < b and one is not None and other is not None and distance(one, other) <= limit
    ]
    assert group_near_duplicates(hashes, limit) == reference_labels(len(hashes), pairs)


def test_the_limit_is_inclusive():
    value = np.random.default_rng(0).bytes(32)
    for count, expected in ((24, [0, 0]), (25, [0, 1])):
        spread = range(0, 10 * count, 10)
        assert group_near_duplicates([value, flip(value, spread)], 24) == expected


def test_pairs_are_found_in_every_tile_and_across_them(monkeypatch):
    """Seven groups of four bits, flipped in all 128 ways, each close to one other."""
    monkeypatch.setattr(near_duplicates, "_TILE", (4, 24))
    value = np.random.default_rng(0).bytes(32)
    groups = [range(30 * n, 30 * n + 4) for n in range(7)]
    firsts = [
        flip(value, [bit for n, group in enumerate(groups) if choice >> n & 1 for bit in group])
        for choice in range(128)
    ]
    seconds = [flip(first, [250]) for first in firsts]
    assert group_near_duplicates(firsts + seconds, 3) == [*range(128), *range(128)]


def test_the_opposite_of_a_hash_is_far_although_its_256_bits_wrap():
    value = np.random.default_rng(0).bytes(32)
    opposite = flip(value, range(NUM_BITS))
    assert distance(value, opposite) == 256
    assert group_near_duplicates([value, opposite], 24) == [0, 1]
    assert list(near_pairs([value, opposite], 255)) == [pytest.approx(np.array([[0, 0], [1, 1]]))]


def with_detail(bits, pattern):
    """A hash whose detail is `pattern` (16, 16), less the means of its blocks."""
    blocks = pattern.reshape(4, 4, 4, 4)
    detail = blocks - blocks.mean(axis=(1, 3), keepdims=True)
    return bits + np.rint(detail / np.abs(detail).max() * 127).astype(np.int8).tobytes()


def test_an_unsure_pair_is_one_picture_where_its_detail_says_so():
    rng = np.random.default_rng(0)
    bits, pattern = rng.bytes(32), rng.normal(size=(16, 16))
    other = rng.normal(size=(16, 16))
    one = with_detail(bits, pattern)

    def groups(flips, mixed, **rule):
        value = with_detail(flip(bits, range(flips)), pattern + mixed * other)
        return group_near_duplicates([one, value], 24, **rule)

    assert groups(24, 5.0) == [0, 0]  # the bits alone
    assert groups(25, 5.0) == [0, 1]
    assert groups(48, 0.4) == [0, 0]  # correlates by about 1 / sqrt(1 + 0.4^2) = 0.93
    assert groups(49, 0.0) == [0, 1]
    assert groups(55, 0.35) == [0, 1]  # as different phantom livers are: 55 bits, 0.94
    assert groups(48, 0.6) == [0, 1]  # by about 0.86
    assert groups(48, 0.6, min_correlation=0.8) == [0, 0]
    assert groups(30, 0.0, min_correlation=1) == [0, 1]
    assert group_near_duplicates([one, with_detail(flip(bits, [0]), pattern)], 0) == [0, 1]
    assert group_near_duplicates([one, flip(bits, range(30))], 24) == [0, 1]  # without detail
    assert describe_rule(24, 0.9) == (
        "hashes that differ in at most 24 of 256 bits, or in at most 48 with a correlation of 0.9"
    )
    assert describe_rule(0, 0.9) == "hashes that differ in at most 0 of 256 bits"


@pytest.mark.parametrize("cut", [3, 4])
def test_a_copy_with_its_edges_cut_off_is_found_by_its_detail(cut):
    """Of 150 columns 4 cut off each side move most bits, and the detail little."""
    originals = [picture(seed) for seed in range(6)]
    hashes = [perceptual_hash(p) for p in originals]
    hashes += [perceptual_hash(p[cut:-cut, cut:-cut]) for p in originals]
    assert group_near_duplicates(hashes, 24, 1) != [*range(6), *range(6)]
    assert group_near_duplicates(hashes, 24) == [*range(6), *range(6)]


def test_groups_reach_through_intermediates():
    value = np.random.default_rng(0).bytes(32)
    chain = [flip(value, range(10 * steps)) for steps in range(4)]
    assert group_near_duplicates(chain, 10) == [0, 0, 0, 0]
    assert group_near_duplicates([chain[0], chain[2], chain[3]], 10) == [0, 1, 1]


def test_no_images_have_no_groups():
    assert group_near_duplicates([], 24) == []


def reference_labels(count, pairs):
    neighbours = {node: {node} for node in range(count)}
    for a, b in pairs:
        neighbours[a].add(b)
        neighbours[b].add(a)
    labels = []
    for node in range(count):
        reached, edge = set(), {node}
        while edge:
            reached |= edge
            edge = set().union(*(neighbours[other] for other in edge)) - reached
        labels.append(min(reached))
    return labels


@given(
    st.integers(1, 15).flatmap(
        lambda n: st.tuples(
            st.just(n), st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)))
        )
    )
)
def test_connected_labels_are_the_smallest_reachable_node(graph):
    count, pairs = graph
    pieces = [np.array(pairs, dtype=np.int64).reshape(-1, 2)[start::3] for start in range(3)]
    wanted = reference_labels(count, pairs)
    assert connected_labels(count, pieces) == wanted
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_duplicates, "_MOST_PAIRS", 2)  # joined piece by piece
        assert connected_labels(count, pieces) == wanted


def test_many_images_take_seconds():
    rng = np.random.default_rng(0)
    hashes = [rng.bytes(32) for _ in range(5000)]
    hashes += [flip(value, rng.choice(NUM_BITS, 20, replace=False)) for value in hashes[:50]]
    labels = group_near_duplicates(hashes, 24)
    assert labels == [*range(5000), *range(50)]
