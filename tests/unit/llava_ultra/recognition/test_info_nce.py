import math

import pytest
import torch

from llava_ultra.recognition.losses import info_nce


def test_it_is_the_mean_surprise_at_the_own_pair_in_both_directions():
    similarity = torch.tensor([[2.0, 0.0], [1.0, 3.0]])
    rows = [math.log(1 + math.exp(-2)), math.log(1 + math.exp(-2))]
    columns = [math.log(1 + math.exp(-1)), math.log(1 + math.exp(-3))]
    expected = (sum(rows) / 2 + sum(columns) / 2) / 2
    assert float(info_nce(similarity)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("size", [1, 2, 16])
def test_where_all_are_alike_it_is_the_log_of_how_many_there_are(size):
    assert float(info_nce(torch.zeros(size, size))) == pytest.approx(math.log(size), abs=1e-6)
