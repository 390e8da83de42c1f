"""Groups of 1 to 32 images in ragged batches: padding, company and order decide nothing."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llava_ultra.batch import StudyFeatures, VisualBatch, collate_features, collate_texts
from llava_ultra.config import AdaptiveSampling, FirstSampling, KeepAllSampling, RandomSampling
from llava_ultra.connector.pick import Sampler, pick
from llava_ultra.language.chat import IGNORED, encode_answer, encode_chat
from llava_ultra.testing import tiny_config, tiny_language, tiny_model

TOKENS, CHANNELS, WIDTH = 4, 32, 32
"""P, C1 = C2 and D of the tiny model."""
LANGUAGE = tiny_language(tiny_config())
TURNS = (
    ("器官?", "甲状腺"),
    ("病灶是良性还是恶性?", "恶性"),
    ("请描述超声所见。", "左侧甲状腺见一低回声结节, 大小约12mm, 边界清晰。"),
)

counts = st.lists(st.integers(1, 32), min_size=1, max_size=4)
slots = st.integers(1, 4)
adaptive = st.builds(
    AdaptiveSampling,
    num_selected=slots,
    training_rule=st.sampled_from(["straight_through", "weighted"]),
    inference_score=st.sampled_from(["feature", "attention", "balanced"]),
)
settled = st.one_of(
    adaptive, st.just(KeepAllSampling()), st.builds(FirstSampling, num_selected=slots)
)
"""Samplers whose choice is a function of the features; a random one draws by the study's name."""
samplings = st.one_of(settled, st.builds(RandomSampling, num_selected=slots))


def build(sampling, *, training=False):
    config = tiny_config(sampling)
    return tiny_model(config, tiny_language(config)).train(training)


def features(count, seed):
    generator = np.random.default_rng(seed)
    clip, sam = generator.standard_normal((2, count, TOKENS, CHANNELS), dtype=np.float32)
    return StudyFeatures(clip=clip, sam=sam)


def littered(batch):
    """The batch with large numbers where there is no image."""
    padding = ~batch.image_mask[:, :, None, None]
    return VisualBatch(
        clip=batch.clip.masked_fill(padding, 50.0),
        sam=batch.sam.masked_fill(padding, -70.0),
        image_mask=batch.image_mask,
    )


def answered(model, batch, rows):
    """What was picked, the shares of the images, and the log-probability of each answer token."""
    text = collate_texts(LANGUAGE.tokenizer, rows, max_tokens=256)
    with torch.no_grad():
        reading = model.read(model.fuse(batch.clip, batch.sam), batch.image_mask, text)
        log_probs = model.answer_log_probs(reading, text)
    return reading.selection, log_probs, text.labels[:, 1:] != IGNORED


@settings(max_examples=25)
@given(sampling=settled, counts=counts, training=st.booleans())
@example(sampling=AdaptiveSampling(num_selected=2), counts=[1, 32], training=False)
def test_a_study_is_read_in_a_padded_batch_as_it_is_alone(sampling, counts, training):
    model = build(sampling, training=training)
    studies = [features(count, seed) for seed, count in enumerate(counts)]
    rows = [(at, *TURNS[at % len(TURNS)]) for at in range(len(studies))]
    selection, log_probs, is_answer = answered(model, littered(collate_features(studies)), rows)
    for at, study in enumerate(studies):
        alone, own, own_answer = answered(model, collate_features([study]), [(0, *rows[at][1:])])
        real = selection.indices[at][selection.indices[at] >= 0]
        assert real.tolist() == alone.indices[0].tolist()
        shares = selection.probabilities[at]
        torch.testing.assert_close(
            shares[: counts[at]], alone.probabilities[0], atol=1e-6, rtol=1e-5
        )
        assert not shares[counts[at] :].any()
        torch.testing.assert_close(
            log_probs[at][is_answer[at]], own[0][own_answer[0]], atol=1e-5, rtol=0
        )


@settings(max_examples=25)
@given(sampling=samplings, counts=counts)
@example(sampling=KeepAllSampling(), counts=[32, 1])
def test_padding_gets_no_gradient(sampling, counts):
    torch.manual_seed(0)
    model = build(sampling, training=True)
    batch = littered(collate_features([features(n, seed) for seed, n in enumerate(counts)]))
    batch.clip.requires_grad_()
    batch.sam.requires_grad_()
    rows = [(at, *TURNS[at % len(TURNS)]) for at in range(len(counts))]
    text = collate_texts(LANGUAGE.tokenizer, rows, max_tokens=256)
    output = model(batch, text)
    assert all(loss.isfinite() for loss in output.losses.values())
    output.loss.backward()
    for values in (batch.clip, batch.sam):
        assert not values.grad[~batch.image_mask].any()
        assert values.grad.isfinite().all()
        assert values.grad[batch.image_mask].any()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


@settings(max_examples=25)
@given(sampling=adaptive, counts=counts, training=st.booleans(), data=st.data())
def test_the_order_of_the_images_moves_the_scores_along_and_picks_the_same_images(
    sampling, counts, training, data
):
    model = build(sampling, training=training)
    studies = [features(count, seed) for seed, count in enumerate(counts)]
    orders = [data.draw(st.permutations(range(count))) for count in counts]
    moved = [
        StudyFeatures(clip=study.clip[order], sam=study.sam[order])
        for study, order in zip(studies, orders, strict=True)
    ]
    rows = [(at, *TURNS[at % len(TURNS)]) for at in range(len(studies))]
    before, plain, is_answer = answered(model, collate_features(studies), rows)
    after, shuffled, _ = answered(model, collate_features(moved), rows)
    for at, order in enumerate(orders):
        torch.testing.assert_close(
            after.probabilities[at, : counts[at]],
            before.probabilities[at, order],
            atol=1e-6,
            rtol=1e-5,
        )
        picked = [order[place] for place in after.indices[at].tolist() if place >= 0]
        assert picked == [place for place in before.indices[at].tolist() if place >= 0]
    torch.testing.assert_close(plain[is_answer], shuffled[is_answer], atol=1e-5, rtol=0)


@settings(max_examples=60)
@given(
    counts=counts,
    num_slots=st.integers(1, 40),
    levels=st.integers(1, 50),
    seed=st.integers(0, 99),
)
def test_pick_takes_distinct_real_images_best_first_and_leaves_the_rest_empty(
    counts, num_slots, levels, seed
):
    """Few levels make ties, which must not let an image in twice."""
    most = max(counts)
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(levels, (len(counts), most), generator=generator).float()
    mask = torch.arange(most) < torch.tensor(counts)[:, None]
    soft, indices = pick(scores.masked_fill(~mask, 1e6), mask, num_slots)
    assert soft.shape == (len(counts), num_slots, most)
    for row, count in enumerate(counts):
        filled = min(count, num_slots)
        chosen = indices[row, :filled].tolist()
        assert len(set(chosen)) == filled
        assert set(chosen) <= set(range(count))
        taken = scores[row, chosen]
        assert taken.tolist() == scores[row, :count].sort(descending=True).values[:filled].tolist()
        assert (indices[row, filled:] == -1).all()
        one_hot = torch.nn.functional.one_hot(torch.tensor(chosen), most).float()
        torch.testing.assert_close(soft[row, :filled], one_hot, atol=1e-6, rtol=0)
        assert not soft[row, filled:].any()


@settings(max_examples=60)
@given(sampling=samplings, counts=counts, training=st.booleans())
def test_no_sampler_picks_padding_or_fills_a_slot_beyond_the_images(sampling, counts, training):
    torch.manual_seed(0)
    sampler = Sampler(sampling, width=WIDTH).train(training)
    most = max(counts)
    mask = torch.arange(most) < torch.tensor(counts)[:, None]
    tokens = torch.randn(len(counts), most, TOKENS, WIDTH).masked_fill(~mask[:, :, None, None], 1e3)
    text, text_mask = torch.randn(len(counts), 5, WIDTH), torch.ones(len(counts), 5).bool()
    scores = sampler.feature_scores(tokens, [str(row) for row in range(len(counts))])
    selection = sampler(tokens, mask, torch.arange(len(counts)), text, text_mask, scores)
    blended = training and getattr(sampling, "training_rule", "") == "weighted"
    wanted = 1 if blended else getattr(sampling, "num_selected", most)
    picked = selection.tokens.view(len(counts), -1, TOKENS, WIDTH)
    filled = selection.mask.view(len(counts), -1, TOKENS)
    for row, count in enumerate(counts):
        num_filled = min(count, wanted)
        chosen = selection.indices[row, :num_filled]
        assert (chosen >= 0).all()
        assert (chosen < count).all()
        assert len(set(chosen.tolist())) == num_filled
        assert (selection.indices[row, num_filled:] == -1).all()
        assert filled[row, :num_filled].all()
        assert not filled[row, num_filled:].any()
        assert not picked[row, num_filled:].any()
        if not blended:
            torch.testing.assert_close(
                picked[row, :num_filled], tokens[row, chosen], atol=1e-5, rtol=1e-5
            )
        assert math.isclose(float(selection.probabilities[row].sum().detach()), 1, abs_tol=1e-5)
        assert not selection.probabilities[row, count:].any()


@settings(max_examples=40)
@given(counts=counts, channels=st.tuples(st.integers(1, 6), st.integers(1, 6)), data=st.data())
def test_features_of_any_groups_come_back_from_a_batch(counts, channels, data):
    dtype = data.draw(st.sampled_from([np.float16, np.float32]))
    generator = np.random.default_rng(len(counts))
    studies = [
        StudyFeatures(
            clip=generator.standard_normal((count, TOKENS, channels[0])).astype(dtype),
            sam=generator.standard_normal((count, TOKENS, channels[1])).astype(dtype),
        )
        for count in counts
    ]
    batch = collate_features(studies)
    for row, study in enumerate(studies):
        real = batch.image_mask[row]
        assert real.tolist() == [place < len(study.clip) for place in range(max(counts))]
        np.testing.assert_array_equal(batch.clip[row][real].numpy(), study.clip)
        np.testing.assert_array_equal(batch.sam[row][real].numpy(), study.sam)
        assert not batch.clip[row][~real].any()
        assert not batch.sam[row][~real].any()


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 31),
            st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
            st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
        ),
        min_size=1,
        max_size=6,
    )
)
@example([(3, "", ""), (0, "描述" * 60, "左" * 200), (3, "?", "")])
def test_texts_of_any_length_come_back_from_a_batch(rows):
    batch = collate_texts(LANGUAGE.tokenizer, rows, max_tokens=10_000)
    assert batch.study_index.tolist() == [index for index, _, _ in rows]
    prompts = batch.without_answers()
    longest = 0
    for row, (_, question, answer) in enumerate(rows):
        prompt, _ = encode_chat(LANGUAGE.tokenizer, [{"role": "user", "content": question}])
        reply = encode_answer(LANGUAGE.tokenizer, answer)
        length = len(prompt) + len(reply)
        longest = max(longest, length)
        assert batch.mask[row].tolist() == [place < length for place in range(batch.ids.shape[1])]
        assert batch.ids[row, :length].tolist() == prompt + reply
        assert (batch.ids[row, length:] == LANGUAGE.tokenizer.pad_token_id).all()
        assert batch.labels[row].tolist() == (
            [IGNORED] * len(prompt) + reply + [IGNORED] * (batch.ids.shape[1] - length)
        )
        assert prompts.ids[row][prompts.mask[row]].tolist() == prompt
    assert batch.ids.shape[1] == longest


@pytest.mark.parametrize("over", [0, 1])
def test_the_longest_text_that_fits_is_taken_and_one_token_more_is_refused(over):
    rows = [(0, "器官?", "甲状腺")]
    length = int(collate_texts(LANGUAGE.tokenizer, rows, max_tokens=99).mask.sum())
    if over:
        with pytest.raises(ValueError, match=f"{length} tokens long"):
            collate_texts(LANGUAGE.tokenizer, rows, max_tokens=length - 1)
    else:
        assert collate_texts(LANGUAGE.tokenizer, rows, max_tokens=length).ids.shape == (1, length)
