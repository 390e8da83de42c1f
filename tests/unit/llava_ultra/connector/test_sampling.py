import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_ultra.config import AdaptiveSampling, FirstSampling, KeepAllSampling, RandomSampling
from llava_ultra.connector.sampling import Sampler, distillation_loss, grounding_loss, pick

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


def test_distillation_is_the_kl_divergence_and_teaches_the_student_only():
    torch.manual_seed(0)
    teacher = torch.randn(4, 5, requires_grad=True)
    student = torch.randn(4, 5, requires_grad=True)
    mask = torch.ones(4, 5, dtype=torch.bool)
    loss = distillation_loss(teacher, student, mask, 2.0)
    target = (teacher.detach() / 2).softmax(1)
    expected = torch.nn.functional.kl_div(
        (student.detach() / 2).log_softmax(1), target, reduction="batchmean"
    )
    assert torch.allclose(loss, expected, atol=1e-6)
    loss.backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


def test_distillation_brings_the_student_to_the_teacher():
    teacher = torch.tensor([[2.0, 0.0, -1.0, 50.0]])
    mask = torch.tensor([[True, True, True, False]])
    student = torch.zeros(1, 4, requires_grad=True)
    optimizer = torch.optim.Adam([student], lr=0.1)
    for _ in range(300):
        loss = distillation_loss(teacher, student, mask, 1.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.allclose(student[0, :3].softmax(0), teacher[0, :3].softmax(0), atol=0.01)


def test_attention_prefers_the_image_that_the_text_points_to():
    sampler = Sampler(AdaptiveSampling(inference_score="attention"), width=WIDTH).eval()
    with torch.no_grad():  # query = key = plain direction
        sampler.query[1].weight.copy_(torch.eye(WIDTH) * 3)
        sampler.key[1].weight.copy_(torch.eye(WIDTH) * 3)
    torch.manual_seed(0)
    tokens = torch.randn(1, 4, TOKENS, WIDTH)
    text = tokens[:, 2, :1].expand(1, 3, WIDTH)
    everything = torch.ones(1, 3, dtype=torch.bool)
    selection = sampler(
        tokens, torch.ones(1, 4, dtype=torch.bool), torch.tensor([0]), text, everything
    )
    assert selection.indices.tolist() == [[2]]


def test_masked_text_takes_no_part_in_attention():
    sampler, tokens, mask, _ = run(AdaptiveSampling(inference_score="attention"), [3, 4])
    text = torch.randn(2, 6, WIDTH)
    text_mask = torch.arange(6) < torch.tensor([[4], [6]])
    changed = text.clone()
    changed[0, 4:] = 99.0
    rows = tokens, mask, torch.arange(2)
    first = sampler.attention_scores(*rows, text, text_mask)
    second = sampler.attention_scores(*rows, changed, text_mask)
    assert torch.equal(first, second)


def test_a_word_weighs_by_what_its_attention_tells_of_the_image():
    """Three words that fit every image but lean to the first, one that fits the third alone."""
    mass = torch.tensor([[[0.36, 0.32, 0.32]] * 3 + [[0.02, 0.03, 0.95]]])
    images, words = torch.ones(1, 3, dtype=torch.bool), torch.ones(1, 4, dtype=torch.bool)

    def weights(rule, mass=mass, words=words):
        sampler = Sampler(AdaptiveSampling(word_weights=rule), width=WIDTH)
        return sampler._word_weights(mass, images, words)

    told = torch.tensor([math.log(3) + float(torch.xlogy(row, row).sum()) for row in mass[0]])
    assert torch.allclose(weights("information")[0], told / told.sum(), atol=1e-4)
    assert weights("information")[0, 3] > 0.98
    assert torch.equal(weights("equal"), torch.full((1, 4), 0.25))
    without = weights("information", words=torch.tensor([[True, True, True, False]]))
    assert torch.allclose(without, torch.tensor([[1 / 3, 1 / 3, 1 / 3, 0]]))
    guess = weights("information", mass=torch.full((1, 4, 3), 1 / 3))
    assert torch.allclose(guess, torch.full((1, 4), 0.25))


@pytest.mark.parametrize("rule", ["information", "equal"])
def test_attention_over_one_image_or_no_words_stays_finite(rule):
    sampler, tokens, mask, _ = run(AdaptiveSampling(word_weights=rule), [1, 3])
    text, read = torch.randn(2, 3, WIDTH), torch.tensor([[True] * 3, [False] * 3])
    scores = sampler.attention_scores(tokens, mask, torch.arange(2), text, read)
    assert scores[0].tolist() == pytest.approx([0, -math.inf, -math.inf], abs=1e-6)
    assert torch.isfinite(scores[1]).all()
    scores[mask].sum().backward()
    assert torch.isfinite(tokens.grad).all()


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
    for part in (sampler.query, sampler.key, sampler.feature_head):
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


def test_grounding_learns_which_image_a_text_belongs_to():
    torch.manual_seed(0)
    sampler = Sampler(AdaptiveSampling(inference_score="attention"), width=WIDTH)
    concepts = torch.randn(6, WIDTH) * 2
    words = torch.randn(6, WIDTH)[:, None]  # unlike the concepts: the match has to be learned
    images, text_mask = torch.ones(6, 4, dtype=torch.bool), torch.ones(6, 1, dtype=torch.bool)

    def draw():  # one place of one image of each study shows its concept, all else is new each time
        tokens, shows = torch.randn(6, 4, TOKENS, WIDTH), torch.randint(4, (6,))
        tokens[torch.arange(6), shows, 1] = concepts
        return tokens, shows

    optimizer = torch.optim.Adam(sampler.parameters(), lr=0.01)
    for _ in range(400):
        tokens, _ = draw()
        loss = grounding_loss(sampler.grounding_similarity(tokens, images, words, text_mask))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    hits = []
    for _ in range(20):
        tokens, shows = draw()
        scores = sampler.attention_scores(tokens, images, torch.arange(6), words, text_mask)
        hits.append((scores.argmax(1) == shows).float().mean())
    assert torch.stack(hits).mean() > 0.8  # chance is 0.25


def test_padding_takes_no_part_in_grounding():
    sampler, tokens, mask, _ = run(AdaptiveSampling(), [2, 4])
    text, text_mask = torch.randn(2, 3, WIDTH), torch.ones(2, 3, dtype=torch.bool)
    plain = sampler.grounding_similarity(tokens, mask, text, text_mask)
    padded = tokens.detach().clone()
    padded[0, 2:] = 50.0
    assert torch.allclose(plain, sampler.grounding_similarity(padded, mask, text, text_mask))
    longer = torch.cat([text, torch.full((2, 2, WIDTH), 50.0)], dim=1)
    unread = torch.cat([text_mask, torch.zeros(2, 2, dtype=torch.bool)], dim=1)
    assert torch.allclose(plain, sampler.grounding_similarity(tokens, mask, longer, unread))


def test_grounding_is_the_equation_in_the_docstring():
    sampler, tokens, mask, _ = run(AdaptiveSampling(), [2, 4])
    text, text_mask = torch.randn(2, 3, WIDTH), torch.tensor([[True, True, False], [True] * 3])
    found = sampler.grounding_similarity(tokens, mask, text, text_mask).detach()
    for i in range(2):
        query = sampler.query(text[i, text_mask[i]]).detach()
        for j in range(2):
            key = sampler.key(tokens[j, mask[j]]).detach()
            similarity = torch.einsum("ld,kpd->lkp", query, key) / WIDTH**0.5
            places = similarity.exp().mean(dim=2).log().mean(dim=0)
            similarity = float(places.exp().mean().log()) / 0.1
            assert found[i, j] == pytest.approx(similarity, abs=1e-4)
