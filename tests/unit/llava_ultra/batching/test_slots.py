"""Rows in one block of memory: what a row holds survives whatever becomes of the layout."""

from pathlib import Path

import pytest
import torch

from llava_ultra.batching.slots import COLUMN_STEP, Slots, SlotShape, columns_for

SHAPE = SlotShape(num_layers=2, num_heads=3, head_width=4, dtype=torch.float32)


def make(num_tokens: int = 256, max_rows: int = 4) -> Slots:
    return Slots(SHAPE, num_tokens=num_tokens, max_rows=max_rows, device="cpu")


def tokens(number: int, length: int) -> torch.Tensor:
    return torch.full((2, 2, 3, length, 4), float(number))


def test_bytes_are_counted():
    assert SHAPE.bytes_per_token == 2 * 2 * 3 * 4 * 4
    assert make()._memory.nbytes == 256 * SHAPE.bytes_per_token


@pytest.mark.parametrize(
    ("lengths", "fits"),
    [
        ([256], True),
        ([257], False),
        ([128, 128], True),
        ([128, 129], False),
        ([64, 64, 64, 64], True),
        ([1, 1, 1, 1], True),
        ([1, 1, 1, 1, 1], False),
        ([], True),
    ],
)
def test_rows_fit_where_all_could_grow_to_the_longest(lengths: list[int], fits: bool):
    assert make().fits(lengths) is fits


def test_a_new_layout_keeps_what_rows_hold():
    slots = make()
    slots.write(0, 0, tokens(1, 20))
    slots.write(1, 0, tokens(2, 40))
    for lengths in ([40, 40], [100, 60], [60, 60, 60, 60]):
        slots.arrange(lengths, [20, 40])
        assert slots.num_rows >= len(lengths)
        assert slots.columns >= columns_for(lengths)
        assert torch.equal(slots.read(0, 0, 20), tokens(1, 20))
        assert torch.equal(slots.read(1, 0, 40), tokens(2, 40))


def test_a_row_moves_and_is_wiped():
    slots = make()
    slots.write(2, 0, tokens(1, 10))
    slots.write(2, 10, tokens(2, 5))
    slots.move(2, 0, 15)
    slots.clear(2)
    assert torch.equal(slots.read(0, 0, 15), torch.cat([tokens(1, 10), tokens(2, 5)], dim=3))
    assert not slots.read(2, 0, 15).any()


def test_columns_come_in_steps():
    assert columns_for([1]) == columns_for([COLUMN_STEP]) == COLUMN_STEP
    assert columns_for([3, COLUMN_STEP + 1]) == 2 * COLUMN_STEP


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_storage_takes_memory_where_rows_have_come(dtype):
    """256 MiB in float32 of eight rows, of which one token is written."""
    shape = SlotShape(num_layers=4, num_heads=8, head_width=64, dtype=dtype)
    before = resident_bytes()
    slots = Slots(shape, num_tokens=16_384, max_rows=8, device="cpu")
    held = 16_384 * shape.bytes_per_token
    assert slots._memory.nbytes == held >= 2**27
    assert not slots._memory[0, 0, :10].any()
    slots._memory[0, 0, :10] = 1
    assert resident_bytes() - before < held / 8


def resident_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmRSS:")[2].split()[0])
