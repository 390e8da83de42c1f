import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_ultra.config import AdaptiveSampling, FirstSampling, KeepAllSampling, RandomSampling
from llava_ultra.connector.pick import Sampler, pick

WIDTH, TOKENS = 8, 3


def run(config, counts, *, rows=None, training=False, seed=0):
    torch.manual_seed(seed)
    most = max(counts)
    sampler = Sampler(config, width=WIDTH).train(training)
    tokens = torch.randn(len(counts), most, TOKENS, WIDTH, requires_grad=True)
    mask = torch.arange(most) < torch.tensor(counts)[:, None]
    index = torch.tensor(rows if rows is not None else list(range(len(counts))))
    text = torch.randn(len(index), 5, WIDTH)
    text_mask = torch.ones(len(index), 5, dtype=torch.bool)
    keys = [f"study {number}" for number in range(len(counts))]
    scores = None if training else sampler.feature_scores(tokens, keys)
    return sampler, tokens, mask, sampler(tokens, mask, index, text, text_mask, scores)


configs = st.one_of(
    st.builds(
        AdaptiveSampling,
        num_selected=st.integers(1, 4),
        training_rule=st.sampled_from(["straight_through", "weighted"]),
        inference_score=st.sampled_from(["feature", "attention", "balanced"]),
    ),
    st.just(KeepAllSampling()),
    st.builds(FirstSampling, num_selected=st.integers(1, 4)),
    st.builds(RandomSampling, num_selected=st.integers(1, 4)),
)


@settings(deadline=None, max_examples=60)
@given(
    config=configs,
    counts=st.lists(st.integers(1, 32), min_size=1, max_size=5),
    training=st.booleans(),
)
def test_padding_is_never_selected_and_shares_sum_to_one(config, counts, training):
    _, _, mask, selection = run(config, counts, training=training)
    real = torch.tensor(counts)
    for row, count in enumerate(real):
        chosen = selection.indices[row][selection.indices[row] >= 0]
        assert (chosen < count).all()
        assert len(set(chosen.tolist())) == len(chosen)  # no image twice
    assert torch.allclose(selection.probabilities.sum(1), torch.ones(len(counts)), atol=1e-5)
    assert (selection.probabilities[~mask] == 0).all()
    assert torch.isfinite(selection.tokens).all()


@settings(deadline=None, max_examples=30)
@given(counts=st.lists(st.integers(1, 9), min_size=2, max_size=4), extra=st.integers(1, 5))
def test_more_padding_changes_nothing(counts, extra):
    config = AdaptiveSampling(num_selected=2, inference_score="balanced")
    sampler, tokens, mask, _ = run(config, counts)
    torch.manual_seed(1)
    text = torch.randn(len(counts), 5, WIDTH)
    text_mask = torch.ones(len(counts), 5, dtype=torch.bool)
    index = torch.arange(len(counts))
    plain = sampler(tokens, mask, index, text, text_mask)
    padding = torch.full((len(counts), extra, TOKENS, WIDTH), 7.0)
    wide_mask = torch.cat([mask, torch.zeros(len(counts), extra, dtype=torch.bool)], dim=1)
    wide = sampler(torch.cat([tokens, padding], dim=1), wide_mask, index, text, text_mask)
    assert torch.equal(plain.indices, wide.indices)
    assert torch.allclose(plain.probabilities, wide.probabilities[:, : mask.shape[1]], atol=1e-6)
    assert torch.allclose(plain.tokens, wide.tokens, atol=1e-6)


def test_a_slot_is_one_hot_to_the_bit():
    torch.manual_seed(0)
    slots, indices = pick(3 * torch.randn(500, 7), torch.ones(500, 7, dtype=torch.bool), 3)
    assert torch.equal(slots, torch.nn.functional.one_hot(indices, 7).float())


def test_pick_takes_the_best_in_order_and_leaves_empty_slots():
    scores = torch.tensor([[0.1, 0.9, 0.5], [0.3, 0.2, 9.0]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    slots, indices = pick(scores, mask, 2)
    assert indices.tolist() == [[1, 2], [0, -1]]
    assert torch.allclose(slots.sum(-1), torch.tensor([[1.0, 1.0], [1.0, 0.0]]))


def test_pick_is_hard_forward_and_soft_backward():
    scores = torch.tensor([[0.0, 1.0, 2.0]], requires_grad=True)
    slots, _ = pick(scores, torch.ones(1, 3, dtype=torch.bool), 1)
    assert slots.detach().tolist() == [[[0.0, 0.0, 1.0]]]
    values = torch.tensor([1.0, 2.0, 3.0])
    (slots[0, 0] * values).sum().backward()
    soft = torch.tensor([0.0, 1.0, 2.0]).softmax(0)
    expected = soft * (values - (soft * values).sum())  # gradient of the softmax mean
    assert torch.allclose(scores.grad[0], expected, atol=1e-6)


def test_first_takes_the_first_and_keep_all_keeps_the_order():
    _, _, _, first = run(FirstSampling(num_selected=2), [3, 1])
    assert first.indices.tolist() == [[0, 1], [0, -1]]
    _, tokens, _, everything = run(KeepAllSampling(), [3, 2])
    assert everything.indices.tolist() == [[0, 1, 2], [0, 1, -1]]
    assert torch.allclose(everything.tokens[0], tokens[0].flatten(0, 1))


def test_random_repeats_itself_in_evaluation():
    first = run(RandomSampling(), [9] * 8, seed=1)[3].indices
    second = run(RandomSampling(), [9] * 8, seed=2)[3].indices
    assert torch.equal(first, second)
    assert len(set(first.flatten().tolist())) > 1


def test_random_draws_by_the_study_whatever_stands_beside_it():
    sampler = Sampler(RandomSampling(num_selected=2), width=WIDTH).eval()
    counts = {"a": 9, "b": 4, "c": 32}

    def picked(*keys):
        most = max(counts[key] for key in keys)
        mask = torch.arange(most) < torch.tensor([counts[key] for key in keys])[:, None]
        tokens, text = torch.zeros(len(keys), most, TOKENS, WIDTH), torch.zeros(len(keys), 5, WIDTH)
        inputs = (tokens, mask, torch.arange(len(keys)), text, torch.ones(len(keys), 5).bool())
        selection = sampler(*inputs, sampler.feature_scores(tokens, keys))
        with pytest.raises(ValueError, match="'random' has no feature_scores"):
            sampler(*inputs)
        return dict(zip(keys, selection.indices.tolist(), strict=True))

    alone = picked("a") | picked("b") | picked("c")
    assert picked("a", "b", "c") == picked("c", "a", "b") == alone
    assert sampler.feature_scores(torch.zeros(9, TOKENS, WIDTH), ["a"]).argmax() == alone["a"][0]


def test_random_shows_all_rows_of_a_study_the_same_images_in_evaluation():
    rows = [0] * 8 + [1] * 8
    evaluated = run(RandomSampling(), [9, 9], rows=rows)[3].indices[:, 0].tolist()
    assert [len(set(evaluated[start : start + 8])) for start in (0, 8)] == [1, 1]
    trained = run(RandomSampling(), [9, 9], rows=rows, training=True)[3].indices[:, 0].tolist()
    assert len(set(trained[:8])) > 1


@pytest.mark.parametrize("rule", ["straight_through", "weighted"])
def test_both_rules_give_every_score_a_gradient(rule):
    sampler, tokens, _, selection = run(
        AdaptiveSampling(training_rule=rule), [4, 3], rows=[0, 0, 1], training=True
    )
    target = torch.randn_like(selection.tokens)
    ((selection.tokens - target) ** 2).mean().backward()
    for part in (sampler.scores.query, sampler.scores.key, sampler.scores.feature_head):
        assert sum(p.grad.abs().sum() for p in part.parameters()) > 0
    assert tokens.grad.abs().sum() > 0


def test_no_image_is_refused():
    sampler = Sampler(AdaptiveSampling(), width=WIDTH)
    with pytest.raises(ValueError, match="K = 0"):
        sampler(
            torch.zeros(1, 2, TOKENS, WIDTH),
            torch.zeros(1, 2, dtype=torch.bool),
            torch.tensor([0]),
            torch.zeros(1, 2, WIDTH),
            torch.ones(1, 2, dtype=torch.bool),
        )
