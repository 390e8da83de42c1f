import dataclasses
from functools import partial

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from llava_ultra.batch import StudyFeatures, TextBatch, collate_features
from llava_ultra.config import AdaptiveSampling, FirstSampling, KeepAllSampling, RandomSampling
from llava_ultra.language.chat import IGNORED
from llava_ultra.model import trainable_parameters
from llava_ultra.reading.attention import packed_attention, shares_prefixes
from llava_ultra.reading.packing import pack
from llava_ultra.reading.passage import Passage
from llava_ultra.reading.sequence import pack_reading
from llava_ultra.testing import tiny_config, tiny_language, tiny_model

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 50}
DECODERS = {
    "llama": partial(LlamaForCausalLM, LlamaConfig(**SIZES, num_attention_heads=4)),
    "llama, 2 key and value heads": partial(
        LlamaForCausalLM, LlamaConfig(**SIZES, num_attention_heads=4, num_key_value_heads=2)
    ),
    "qwen2": partial(
        Qwen2ForCausalLM, Qwen2Config(**SIZES, num_attention_heads=4, num_key_value_heads=4)
    ),
    "mistral, a window of 5": partial(
        MistralForCausalLM,
        MistralConfig(**SIZES, num_attention_heads=4, num_key_value_heads=2, sliding_window=5),
    ),
    "gpt2": partial(
        GPT2LMHeadModel, GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=50, n_positions=64)
    ),
}
SAMPLINGS = [
    AdaptiveSampling(),
    AdaptiveSampling(num_selected=2),
    AdaptiveSampling(training_rule="weighted"),
    KeepAllSampling(),
    FirstSampling(),
    RandomSampling(),
]


def decoder(name):
    torch.manual_seed(0)
    return DECODERS[name]().eval()


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("prefixes", [(4, 4), (6, 2)], ids=["equal", "ragged"])
def test_every_token_has_the_state_of_a_row_of_its_own(name, prefixes):
    model = decoder(name)
    assert shares_prefixes(model)
    parents, branches = (0, 0, 1, -1, 0, -1), (5, 1, 3, 7, 2, 4)  # -1: by itself
    packing = pack(prefixes, branches, parents)
    passage = Passage(packing=packing)
    rows = [
        (packing.prefix_positions, torch.tensor(prefixes).cumsum(0) - torch.tensor(prefixes)),
        (packing.branch_positions, packing.branch_starts),
    ]
    torch.manual_seed(1)
    embeds = [torch.randn(1, positions.shape[1], 32) for positions, _ in rows]
    logits = []
    with torch.no_grad(), packed_attention(model):
        for place, (positions, _) in enumerate(rows):
            logits.append(
                model(
                    inputs_embeds=embeds[place],
                    position_ids=positions,
                    passage=passage.on_branches() if place else passage,
                    use_cache=False,
                ).logits[0]
            )
    for row, (parent, length) in enumerate(zip(parents, branches, strict=True)):
        before = rows[0][1][parent] + torch.arange(prefixes[parent] if parent >= 0 else 0)
        behind = packing.branch_starts[row] + torch.arange(length)
        positions = torch.cat([rows[0][0][0, before], rows[1][0][0, behind]])
        assert positions.tolist() == list(range(len(positions)))
        own = torch.cat([embeds[0][:, before], embeds[1][:, behind]], dim=1)
        with torch.no_grad():
            alone = model(inputs_embeds=own).logits[0]
        found = torch.cat([logits[0][before], logits[1][behind]])
        torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-5)


def test_attention_is_the_decoders_own_again_afterwards():
    model = decoder("llama")
    with pytest.raises(RuntimeError), packed_attention(model):
        raise RuntimeError
    assert model.config._attn_implementation == "sdpa"


def test_a_decoder_whose_tokens_meet_outside_attention_does_not_share():
    assert not shares_prefixes(MambaForCausalLM(MambaConfig(**SIZES)))


def test_a_decoder_with_attention_of_its_own_does_not_share():
    model = decoder("llama")
    model.set_attn_implementation("eager")
    assert not shares_prefixes(model)


@st.composite
def steps(draw):
    """Studies of some images, with texts of some lengths: (question, answer) tokens of each."""
    images = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    texts = draw(
        st.lists(
            st.tuples(st.integers(0, len(images) - 1), st.integers(1, 6), st.integers(1, 9)),
            min_size=1,
            max_size=6,
        )
    )
    return images, texts, draw(st.integers(1, 3)), draw(st.integers(0, 2**16))


@pytest.fixture(scope="module")
def model():
    config = tiny_config()
    return tiny_model(config, tiny_language(config))


def with_sampling(model, sampling):
    """The model with another sampler, whose scores it keeps where both have them."""
    config = model.config.model_copy(update={"sampling": sampling})
    torch.manual_seed(0)
    other = type(model)(config, model.language_model)
    other.fusion.load_state_dict(model.fusion.state_dict())
    return other.train()


def batch_of(images, texts, images_at, seed):
    generator = torch.Generator().manual_seed(seed)
    visual = collate_features(
        [
            StudyFeatures(
                clip=torch.randn(count, 4, 32, generator=generator).numpy(),
                sam=torch.randn(count, 4, 32, generator=generator).numpy(),
            )
            for count in images
        ]
    )
    length = images_at + max(question + answer for _, question, answer in texts)
    ids = torch.randint(3, 200, (len(texts), length), generator=generator)
    ids[:, :images_at] = ids[0, :images_at].clone()
    mask, labels = torch.zeros_like(ids, dtype=torch.bool), torch.full_like(ids, IGNORED)
    for row, (_, question, answer) in enumerate(texts):
        end = images_at + question + answer
        mask[row, :end] = True
        labels[row, end - answer : end] = ids[row, end - answer : end]
    study_index = torch.tensor([study for study, _, _ in texts])
    text = TextBatch(
        ids=ids, labels=labels, mask=mask, study_index=study_index, images_at=images_at
    )
    return visual, text


def losses_and_gradients(model, visual, text):
    model.zero_grad()
    torch.manual_seed(0)  # random sampling
    output = model(visual, text)
    output.loss.backward()
    gradients = {
        name: parameter.grad
        for name, parameter in trainable_parameters(model).items()
        if parameter.grad is not None
    }
    return output.losses, gradients


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@given(step=steps())
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_one_pass_gives_the_losses_and_gradients_of_rows_of_their_own(model, sampling, step):
    model = with_sampling(model, sampling)
    visual, text = batch_of(*step)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llava_ultra.model.shares_prefixes", lambda _: False)
        expected = losses_and_gradients(model, visual, text)
    found = losses_and_gradients(model, visual, text)
    assert len(expected[1]) > 20
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def tokens_of(sequence):
    return sequence.prefixes.embeds.shape[1] + sequence.embeds.shape[1]


def test_texts_that_differ_before_their_images_share_nothing(model):
    model = with_sampling(model, FirstSampling())
    visual, text = batch_of([2], [(0, 2, 3), (0, 2, 3)], 2, 0)
    ids = text.ids.clone()
    ids[1, 0] += 1
    other = dataclasses.replace(text, ids=ids)
    tokens = model.fuse(visual.clip, visual.sam)
    alone = other.select([1])
    readings = [model.read(tokens, visual.image_mask, each) for each in (text, other, alone)]
    lengths = [
        tokens_of(pack_reading(reading, each))
        for reading, each in zip(readings, (text, other, alone), strict=True)
    ]
    assert lengths == [6 + 2 * 5, 2 * (6 + 5), 6 + 5]
    found = model.answer_log_probs(readings[1], other)[1:]
    torch.testing.assert_close(found, model.answer_log_probs(readings[2], alone))
