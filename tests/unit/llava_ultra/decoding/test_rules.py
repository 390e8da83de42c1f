import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from llava_ultra.batch import collate_texts
from llava_ultra.config import KeepAllSampling
from llava_ultra.decoding.rules import (
    DecodingRule,
    Penalties,
    Temperature,
    TopP,
    Without,
    build_decoding,
)
from llava_ultra.decoding.step import choose, read_prompts
from llava_ultra.decoding.text import generate
from llava_ultra.testing import tiny_config, tiny_language, tiny_model

CONFIG = tiny_config(KeepAllSampling())
LANGUAGE = tiny_language(CONFIG)
TOKENIZER = LANGUAGE.tokenizer
MODEL = tiny_model(CONFIG, LANGUAGE)
torch.manual_seed(3)
TOKENS = torch.randn(3, 4, 4, 32)
MASK = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]], dtype=torch.bool)
QUESTIONS = ("病灶是良性还是恶性?", "请描述超声所见。", "器官?")


def read(rows, tokens=TOKENS, mask=MASK):
    text = collate_texts(TOKENIZER, [(i, q, "") for i, q in rows], max_tokens=100)
    return MODEL.read(tokens, mask, text.without_answers())


def alone(index):
    count = int(MASK[index].sum())
    tokens = TOKENS[index : index + 1, :count]
    return read([(0, QUESTIONS[index])], tokens, torch.ones(1, count, dtype=torch.bool))


def answers(reading, decoding):
    context = read_prompts(MODEL, reading.embeds, reading.mask)
    return [each.text for each in generate(MODEL, TOKENIZER, context, decoding)]


def test_sampling_repeats_with_its_seed_only():
    def sample(seed):
        return answers(alone(0), build_decoding(max_tokens=20, temperature=2.0, seed=seed))

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)


def test_sampled_tokens_are_the_same_alone_and_in_a_batch():
    decoding = build_decoding(max_tokens=20, temperature=1.5, seed=7)
    together = answers(read(list(enumerate(QUESTIONS))), decoding)
    assert together == [answers(alone(i), decoding)[0] for i in range(3)]
    assert len(set(together)) > 1


@pytest.mark.parametrize("temperature", [1e-320, 1e-40, 1e-6])
def test_a_temperature_too_small_to_divide_by_is_greedy(temperature):
    reading = read([(0, QUESTIONS[0])])
    cold, greedy = (
        answers(reading, build_decoding(max_tokens=8, temperature=value, seed=0))
        for value in (temperature, 0)
    )
    assert cold == greedy


def test_top_p_keeps_the_fewest_tokens_that_reach_the_share():
    logits = torch.tensor([[0.5, 0.2, 0.3], [0.1, 0.8, 0.1]]).log()
    kept = TopP(share=0.7)(logits)
    assert torch.isfinite(kept).tolist() == [[True, False, True], [False, True, False]]
    assert torch.equal(kept[torch.isfinite(kept)], logits[torch.isfinite(kept)])
    assert torch.equal(TopP(share=1)(logits), logits)


@settings(max_examples=50)
@given(st.integers(1, 40), st.floats(0.01, 1.0), st.integers(0, 99))
def test_top_p_keeps_a_token_and_none_that_it_could_leave_out(size, share, seed):
    logits = torch.randn(1, size, generator=torch.Generator().manual_seed(seed)) * 3
    kept = torch.isfinite(TopP(share=share)(logits))[0]
    shares = logits.softmax(dim=-1)[0]
    assert bool(kept[shares.argmax()])
    assert float(shares[kept].sum()) >= share - 1e-5
    assert float(shares[kept].sum() - shares[kept].min()) < share + 1e-5


def test_a_request_becomes_rules():
    assert build_decoding(max_tokens=3, temperature=0, top_p=0.5).sample is False
    asked = build_decoding(max_tokens=3, temperature=2, top_p=0.5, seed=4)
    assert asked.rules == (Temperature(value=2), TopP(share=0.5))
    assert (asked.max_tokens, asked.sample, asked.seed) == (3, True, 4)
    logits = torch.tensor([[4.0, 3.9, -9.0]])
    drawn = {int(choose(logits, asked, [torch.Generator().manual_seed(n)])) for n in range(30)}
    assert drawn == {0}  # half of the probability is the first token's


def test_penalties_count_what_the_answer_has_already():
    logits = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
    lowered = Penalties(frequency=0.5, presence=0.25)(logits, [[0, 0, 2], []])
    assert lowered.tolist() == [[-0.25, 1.0, 0.25], [1.0, 1.0, 1.0]]
    assert logits.tolist() == [[1.0, 1.0, 1.0]] * 2  # the caller's stay
    raised = Penalties(presence=-2)(logits, [[1], [1]])
    assert raised.tolist() == [[1.0, 3.0, 1.0]] * 2


def test_penalties_change_a_greedy_choice_too():
    asked = build_decoding(max_tokens=3, penalties=Penalties(frequency=1.0))
    assert (asked.sample, asked.rules) == (False, (Penalties(frequency=1.0),))
    logits = torch.tensor([[2.0, 1.5, 0.0]])
    assert choose(logits, asked, [None], [[]]).tolist() == [0]
    assert choose(logits, asked, [None], [[0]]).tolist() == [1]
    assert build_decoding(max_tokens=3, penalties=Penalties()).rules == ()


def test_a_token_that_is_left_out_is_never_chosen():
    asked = build_decoding(max_tokens=3, without=1)
    assert asked.rules == (Without(token=1),)
    assert choose(torch.tensor([[0.0, 9.0, 1.0]]), asked, [None], [[]]).tolist() == [2]


def test_rules_are_configured_by_type():
    read = TypeAdapter(DecodingRule).validate_python
    assert read({"type": "temperature", "value": 0.5}) == Temperature(value=0.5)
    for wrong in ({"type": "beam"}, {"type": "top_p", "share": 0}, {"type": "top_p", "p": 0.9}):
        with pytest.raises(ValidationError):
            read(wrong)
