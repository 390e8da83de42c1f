"""The rule of contrastive decoding against its formula, written out."""

import math

import pytest
import torch
from torch import Tensor

from llava_ultra.decoding.contrast import AlternateContrast, divergence
from llava_ultra.decoding.contrast_config import ContrastConfig

MARK, SEPARATOR, END = 7, 8, 9
torch.manual_seed(0)
LOGITS, OTHER = 3 * torch.randn(2, 4, 10)


def scores(logits: Tensor, chosen: list[int], **given: object) -> Tensor:
    """What the rule makes of one answer's logits, which stand between another's."""
    settings = ContrastConfig.model_validate({"strength": 0.5, "plausibility": 0, **given})
    rule = AlternateContrast(settings=settings, mark=MARK, separator=SEPARATOR, end=END)
    return rule(torch.stack([OTHER, logits, OTHER]), [[MARK], chosen, []])[1]


def by_hand(own: int, other: int, *, adaptive: bool) -> list[float]:
    """The formula of the module, token by token, without tensors."""
    shares = [[math.exp(value) for value in row] for row in LOGITS.tolist()]
    shares = [[value / sum(row) for value in row] for row in shares]

    def apart(one: list[float], two: list[float]) -> float:
        total = 0.0
        for p, q in zip(one, two, strict=True):
            middle = (p + q) / 2
            total += p * math.log(p / middle) + q * math.log(q / middle)
        return total / 2

    near, far = 1.0, 1.0
    if adaptive:
        near, far = 1 - apart(shares[own], shares[0]), apart(shares[other], shares[0])
    logs = [[math.log(value) for value in row] for row in shares]
    found = []
    for token in range(10):
        whole = logs[0][token]
        mixed = whole + 0.5 * (
            whole + near * logs[own][token] - far * logs[other][token] - logs[3][token]
        )
        found.append(whole if token in (MARK, SEPARATOR, END) else mixed)
    return found


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize(
    ("chosen", "own", "other"),
    [
        ([], 1, 2),
        ([1, 2], 1, 2),
        ([1, MARK], 2, 1),
        ([MARK, 3], 2, 1),
        ([MARK, 3, SEPARATOR], 1, 2),
    ],
)
def test_the_half_at_work_speaks_and_the_other_is_taken_off(
    chosen: list[int], own: int, other: int, adaptive: bool
):
    found = scores(LOGITS, chosen, adaptive=adaptive)
    assert found.tolist() == pytest.approx(by_hand(own, other, adaptive=adaptive), abs=1e-4)


def test_a_shift_of_a_readings_logits_changes_nothing():
    shifted = LOGITS + torch.tensor([[5.0], [-3.0], [100.0], [0.5]])
    torch.testing.assert_close(scores(shifted, []), scores(LOGITS, []), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("plausible_to", ["every", "full"])
def test_what_is_not_plausible_is_never_chosen(plausible_to: str):
    found = scores(LOGITS, [], plausibility=0.2, plausible_to=plausible_to)
    shares = LOGITS.softmax(dim=-1)
    heard = shares[:3] if plausible_to == "every" else shares[:1]
    for token in range(10):
        is_plausible = all(row[token] >= 0.2 * row.max() for row in heard)
        is_first = token == int(shares[0].argmax())
        assert bool(found[token].isfinite()) == (is_plausible or is_first)


def test_where_the_three_find_nothing_in_common_the_whole_decides():
    logits = torch.full((4, 10), -20.0)
    for row, token in enumerate((2, 3, 4, 5)):
        logits[row, token] = 20.0
    assert int(scores(logits, [], plausibility=0.5).argmax()) == 2


def test_the_divergence_is_0_of_equals_and_never_more_than_log_2():
    one, other = (torch.tensor([first, 1 - first]).log() for first in (1e-9, 1 - 1e-9))
    found = divergence(torch.stack([one, one]), torch.stack([one, other]))
    assert found[:, 0].tolist() == pytest.approx([0, math.log(2)], abs=1e-4)
