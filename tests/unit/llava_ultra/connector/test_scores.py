import math

import pytest
import torch

from llava_ultra.connector.scores import Scores

WIDTH, TOKENS = 8, 3


def build(rule="information"):
    torch.manual_seed(0)
    return Scores(width=WIDTH, word_weights=rule)


def studies(*counts):
    mask = torch.arange(max(counts)) < torch.tensor(counts)[:, None]
    return torch.randn(*mask.shape, TOKENS, WIDTH, requires_grad=True), mask


def test_attention_prefers_the_image_that_the_text_points_to():
    scores = build()
    with torch.no_grad():  # query = key = plain direction
        scores.query[1].weight.copy_(torch.eye(WIDTH) * 3)
        scores.key[1].weight.copy_(torch.eye(WIDTH) * 3)
    tokens = torch.randn(1, 4, TOKENS, WIDTH)
    text = tokens[:, 2, :1].expand(1, 3, WIDTH)
    images, words = torch.ones(1, 4, dtype=torch.bool), torch.ones(1, 3, dtype=torch.bool)
    found = scores.attention(tokens, images, torch.tensor([0]), text, words)
    assert found.argmax(dim=1).tolist() == [2]


def test_masked_text_takes_no_part_in_attention():
    scores, (tokens, mask) = build(), studies(3, 4)
    text = torch.randn(2, 6, WIDTH)
    text_mask = torch.arange(6) < torch.tensor([[4], [6]])
    changed = text.clone()
    changed[0, 4:] = 99.0
    rows = tokens, mask, torch.arange(2)
    first = scores.attention(*rows, text, text_mask)
    second = scores.attention(*rows, changed, text_mask)
    assert torch.equal(first, second)


def test_a_word_weighs_by_what_its_attention_tells_of_the_image():
    """Three words that fit every image but lean to the first, one that fits the third alone."""
    mass = torch.tensor([[0.36, 0.32, 0.32]] * 3 + [[0.02, 0.03, 0.95]])

    def weights(rule, mass=mass):
        found = build(rule)._word_weights(mass, torch.full((len(mass),), 3))
        return found / found.sum()

    told = torch.tensor([math.log(3) + float(torch.xlogy(row, row).sum()) for row in mass])
    assert torch.allclose(weights("information"), told / told.sum(), atol=1e-4)
    assert weights("information")[3] > 0.98
    assert torch.equal(weights("equal"), torch.full((4,), 0.25))
    assert torch.allclose(weights("information", mass=mass[:3]), torch.full((3,), 1 / 3))
    guess = weights("information", mass=torch.full((4, 3), 1 / 3))
    assert torch.allclose(guess, torch.full((4,), 0.25))


@pytest.mark.parametrize("rule", ["information", "equal"])
def test_scores_of_rows_in_any_order_are_those_of_each_row_by_itself(rule):
    """Words are attended to by study; the restatement takes row by row, in double precision."""
    scorer, (tokens, mask) = build(rule).double(), studies(3, 4, 1)
    tokens = tokens.detach().double()
    study_index = torch.tensor([2, 0, 1, 0, 2, 1, 0])
    lengths = torch.tensor([3, 6, 1, 2, 5, 4, 6])
    text = torch.randn(7, 6, WIDTH, dtype=torch.float64)
    read = torch.arange(6) < lengths[:, None]
    found = scorer.attention(tokens, mask, study_index, text, read)
    for row, study in enumerate(study_index.tolist()):
        images = tokens[study][mask[study]]  # (k, P, D)
        words = scorer.query(text[row, : lengths[row]]) / WIDTH**0.5
        attention = (words @ scorer.key(images).flatten(0, 1).T).softmax(dim=-1)
        mass = attention.view(len(words), *images.shape[:2]).sum(dim=-1)
        told = math.log(len(images)) + torch.xlogy(mass, mass).sum(dim=-1)
        weights = told.clamp(min=1e-4) if rule == "information" else torch.ones(len(words))
        total = weights.sum().clamp(min=1e-4)
        wanted = ((mass * weights[:, None]).sum(dim=0) / total).clamp(min=1e-9).log()
        assert torch.allclose(found[row][mask[study]], wanted, atol=1e-6)
        assert bool(torch.isneginf(found[row][~mask[study]]).all())


@pytest.mark.parametrize("rule", ["information", "equal"])
def test_attention_over_one_image_or_no_words_stays_finite(rule):
    scorer, (tokens, mask) = build(rule), studies(1, 3)
    text, read = torch.randn(2, 3, WIDTH), torch.tensor([[True] * 3, [False] * 3])
    scores = scorer.attention(tokens, mask, torch.arange(2), text, read)
    assert scores[0].tolist() == pytest.approx([0, -math.inf, -math.inf], abs=1e-6)
    assert torch.isfinite(scores[1]).all()
    scores[mask].sum().backward()
    assert torch.isfinite(tokens.grad).all()
