"""What a prompt's blocks are called, and which of them are kept."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llava_ultra.batching.prefix import BLOCK, BlockKey, PrefixStore, block_keys, prompt_keys

IMAGES = [torch.full((40, 2), 1.0), torch.full((40, 2), 2.0)]


def spans(keys: list[BlockKey]) -> list[tuple[int, int]]:
    return [(key.start, key.end) for key in keys]


def shared(one: list[BlockKey], other: list[BlockKey]) -> int:
    digests = {key.digest for key in other}
    return max((key.end for key in one if key.digest in digests), default=0)


def test_images_begin_and_end_a_block():
    keys = prompt_keys(range(100), 3, IMAGES)
    assert spans(keys) == [(0, 3), (3, 35), (35, 67), (67, 83), (83, 115), (115, 147), (147, 179)]
    assert spans(prompt_keys(range(30), 0, [])) == []
    assert spans(prompt_keys(range(32), 0, [])) == [(0, 32)]


def test_prompts_share_what_they_have_in_common_and_nothing_else():
    first = prompt_keys(range(100), 1, IMAGES)
    assert shared(first, prompt_keys([*range(50), 0], 1, IMAGES)) == 1 + 80 + 32
    assert shared(first, prompt_keys([0, 9], 1, IMAGES)) == 81
    assert shared(first, prompt_keys([5, 1], 1, IMAGES)) == 0
    assert shared(first, prompt_keys(range(100), 1, IMAGES[::-1])) == 1
    assert shared(first, prompt_keys(range(100), 1, [IMAGES[0], IMAGES[0]])) == 33
    nearly = [IMAGES[0], IMAGES[1] + 1e-6]
    assert shared(first, prompt_keys(range(100), 1, nearly)) == 33


@given(
    st.lists(st.integers(0, 3), max_size=100),
    st.lists(st.integers(0, 3), max_size=100),
    st.lists(st.integers(1, 100), max_size=3),
)
def test_equal_keys_mean_equal_beginnings(one: list[int], other: list[int], ends: list[int]):
    names = [[bytes([token]) for token in tokens] for tokens in (one, other)]
    keys = [block_keys(each, ends=ends) for each in names]
    known = {key.digest: key.end for key in keys[0]}
    for key in keys[1]:
        assert key.end - key.start <= BLOCK
        assert (key.digest in known) == (
            names[0][: key.end] == names[1][: key.end] and key.end <= len(names[0])
        )


def test_names_that_join_to_the_same_bytes_are_told_apart():
    (one,), (other,) = (block_keys(names, ends=[2]) for names in ([b"ab", b"c"], [b"a", b"bc"]))
    assert one.digest != other.digest


def block(key: BlockKey) -> torch.Tensor:
    return torch.full((key.end - key.start,), float(key.start))  # 128 bytes a block


@pytest.mark.parametrize(("max_bytes", "num_kept"), [(0, 0), (127, 0), (128, 1), (300, 2)])
def test_the_budget_keeps_a_beginning(max_bytes: int, num_kept: int):
    store = PrefixStore(max_bytes=max_bytes)
    keys = block_keys([b"x"] * 100)
    store.put(keys, block)
    assert len(store.find(keys)) == len(store) == num_kept
    assert store.size_bytes == num_kept * 128 <= max_bytes


def test_what_was_used_longest_ago_goes_and_what_is_left_is_a_beginning():
    store = PrefixStore(max_bytes=4 * 128)
    old, new = block_keys([b"o"] * 96), block_keys([b"n"] * 64)
    store.put(old, block)
    store.put(new, block)
    assert len(store.find(old)) == 2
    assert len(store.find(new)) == 2
    assert [float(each[0]) for each in store.find(old)] == [0.0, 32.0]
    store.put(block_keys([b"z"] * 96), block)  # `old` was asked for last
    assert len(store.find(new)) == 0
    assert len(store.find(old)) == 1


def test_what_is_there_is_not_read_again():
    store = PrefixStore(max_bytes=10_000)
    keys = block_keys([b"x"] * 100)
    store.put(keys[:2], block)
    read: list[int] = []
    store.put(keys, lambda key: (read.append(key.start), block(key))[1])
    assert read == [64]
