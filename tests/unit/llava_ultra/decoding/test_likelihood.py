"""Options behind one prompt: the same numbers as rows of their own, without the waste."""

import contextlib

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llava_ultra.config import LanguageConfig
from llava_ultra.decoding import likelihood
from llava_ultra.decoding.likelihood import answer_log_likelihoods, batches_by_tokens
from llava_ultra.decoding.step import read_prompts
from llava_ultra.testing import tiny_config, tiny_language, tiny_model

CONFIG = tiny_config()
MODEL = tiny_model(CONFIG, tiny_language(CONFIG))
VOCABULARY = MODEL.language_model.config.vocab_size
WIDTH = CONFIG.language.hidden_size

tokens = st.integers(0, VOCABULARY - 1)
answers = st.lists(tokens, min_size=1, max_size=7)
prompts = st.lists(
    st.tuples(st.integers(1, 30), st.lists(answers, max_size=5)), min_size=1, max_size=5
).filter(lambda groups: any(own for _, own in groups))


def padded(lengths, seed=0):
    """Prompts of random embeddings, with the padding on the right."""
    generator = torch.Generator().manual_seed(seed)
    embeds = torch.randn(len(lengths), max(lengths), WIDTH, generator=generator)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return embeds, mask


def as_a_row_of_its_own(prompt, answer):
    """Log-likelihood from one plain forward pass over prompt and answer."""
    ids = torch.tensor(answer)
    embeds = torch.cat([prompt, MODEL.embed(ids[None])[0]])[None]
    with torch.no_grad():
        log_probs = MODEL.language_model(inputs_embeds=embeds).logits[0].log_softmax(dim=-1)
    at = torch.arange(len(ids)) + len(prompt) - 1
    return float(log_probs[at, ids].sum())


def score(groups, *, max_tokens):
    embeds, mask = padded([length for length, _ in groups])
    flat = [(row, answer) for row, (_, own) in enumerate(groups) for answer in own]
    context = read_prompts(MODEL, embeds, mask)
    values = answer_log_likelihoods(
        MODEL, context, [row for row, _ in flat], [ids for _, ids in flat], max_tokens=max_tokens
    )
    return embeds, flat, values


@settings(max_examples=40, deadline=None)
@given(groups=prompts, max_tokens=st.sampled_from([1, 60, 10_000]), piece=st.integers(1, 4))
@example(groups=[(30, [[1], [2, 3], [4] * 7]), (1, [[5, 6]])], max_tokens=60, piece=1)
def test_every_answer_is_scored_as_in_a_row_of_its_own(groups, max_tokens, piece):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(likelihood, "MAX_LOGITS", piece * 4 * VOCABULARY)
        embeds, flat, values = score(groups, max_tokens=max_tokens)
    for value, (row, answer) in zip(values.tolist(), flat, strict=True):
        wanted = as_a_row_of_its_own(embeds[row, : groups[row][0]], answer)
        assert value == pytest.approx(wanted, abs=1e-5 * max(1, abs(wanted)))


def test_the_prompts_can_be_used_again():
    embeds, mask = padded([9, 20])
    context = read_prompts(MODEL, embeds, mask)
    first, again = (
        answer_log_likelihoods(MODEL, context, [0, 1, 1], [[3, 4], [5], [6, 7, 8]], max_tokens=99)
        for _ in range(2)
    )
    assert torch.equal(first, again)


@contextlib.contextmanager
def counted(model):
    """Logits of each call of the output layer, and tokens read in each call of the decoder."""
    logits, read = [], []
    head = model.language_model.get_output_embeddings()
    layer = model.language_model.get_base_model().model.layers[0]
    handles = [
        head.register_forward_hook(lambda module, args, output: logits.append(output.numel())),
        layer.register_forward_pre_hook(
            lambda module, args: read.append(args[0].shape[0] * args[0].shape[1])
        ),
    ]
    yield logits, read
    for handle in handles:
        handle.remove()


def test_logits_are_computed_where_a_token_is_predicted_and_prompts_are_read_once(monkeypatch):
    """27 questions of 100 tokens with 4 options each, at a vocabulary of 20,000."""
    values = CONFIG.language.model_dump() | {"vocab_size": 20_000}
    config = CONFIG.model_copy(update={"language": LanguageConfig(**values)})
    language = tiny_language(CONFIG)
    language.model.resize_token_embeddings(20_000, mean_resizing=False)
    model = tiny_model(config, language)
    vocabulary = 20_000
    num_questions, num_options, length = 27, 4, 100
    embeds, mask = padded([length] * num_questions)
    options = [[7, 8, 9, 2]] * num_questions * num_options
    prompt_of = [row for row in range(num_questions) for _ in range(num_options)]
    limit = 2000
    monkeypatch.setattr(likelihood, "MAX_LOGITS", 25 * vocabulary)
    with counted(model) as (logits, read):
        context = read_prompts(model, embeds, mask)
        answer_log_likelihoods(model, context, prompt_of, options, max_tokens=limit)
    predicted = num_questions * num_options * 3  # beside the first token, which the prompt predicts
    assert sum(logits) == (num_questions + predicted) * vocabulary
    assert sum(read) == num_questions * length + predicted
    assert max(logits[1:]) <= 25 * vocabulary
    # a branch of 103 tokens: 19 of them in a batch
    assert max(read[1:]) <= limit // 103 * 3
    as_rows = num_questions * num_options * (length + 3) * vocabulary
    assert sum(logits) < as_rows / 30


@settings(max_examples=100)
@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 200))
def test_groups_hold_every_row_once_and_stay_below_the_limit(lengths, limit):
    groups = batches_by_tokens(lengths, limit)
    assert sorted(row for group in groups for row in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[row] for row in group) <= limit


def test_rows_of_like_length_come_together():
    assert batches_by_tokens([10, 2, 10, 2, 9], 20) == [[1, 3], [4, 0], [2]]
    assert batches_by_tokens([], 30) == []
