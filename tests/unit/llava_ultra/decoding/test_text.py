import pytest
import torch

from llava_ultra.batch import collate_texts
from llava_ultra.config import KeepAllSampling
from llava_ultra.decoding.text import (
    Decoding,
    align_right,
    answer_log_likelihoods,
    generate,
    iter_tokens,
    stream,
)
from llava_ultra.model import LlavaUltra
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


def test_a_batch_gives_the_same_text_as_each_alone():
    decoding = Decoding(max_tokens=24)
    together = generate(MODEL, TOKENIZER, read(list(enumerate(QUESTIONS))), decoding)
    assert together == [generate(MODEL, TOKENIZER, alone(i), decoding)[0] for i in range(3)]
    assert len(set(together)) > 1


def test_greedy_text_equals_the_decoder_without_a_cache():
    reading = alone(1)
    embeds, ids = reading.embeds, []
    for _ in range(12):
        with torch.no_grad():
            token = MODEL.language_model(inputs_embeds=embeds).logits[:, -1].argmax(-1)
        if int(token) == TOKENIZER.eos_token_id:
            break
        ids.append(int(token))
        embeds = torch.cat([embeds, MODEL.embed(token[:, None])], dim=1)
    assert generate(MODEL, TOKENIZER, reading, Decoding(max_tokens=12)) == [TOKENIZER.decode(ids)]


@pytest.mark.parametrize("index", range(3))
def test_the_stream_joins_to_the_whole(index):
    decoding = Decoding(max_tokens=40)
    pieces = list(stream(MODEL, TOKENIZER, alone(index).embeds, decoding))
    assert "".join(pieces) == generate(MODEL, TOKENIZER, alone(index), decoding)[0]
    assert len(pieces) > 1
    # an incomplete character may stand at the very end only, where the answer was cut
    assert all(not piece.endswith("\ufffd") for piece in pieces[:-1])


def test_a_stop_string_ends_the_answer_and_is_not_part_of_it():
    decoding = Decoding(max_tokens=40)
    whole = generate(MODEL, TOKENIZER, alone(0), decoding)[0]
    word = whole[5:7]
    cut = "".join(stream(MODEL, TOKENIZER, alone(0).embeds, decoding, stop=[word]))
    assert cut == whole[: whole.index(word)]


def test_stop_strings_cut_each_row_of_a_batch_as_they_cut_it_alone():
    decoding = Decoding(max_tokens=30)
    whole = generate(MODEL, TOKENIZER, read(list(enumerate(QUESTIONS))), decoding)
    stop = [whole[0][5:7], whole[1][9:11]]
    reading = read(list(enumerate(QUESTIONS)))
    together = generate(MODEL, TOKENIZER, reading, decoding, stop=stop)
    for index, text in enumerate(together):
        alone_text = "".join(stream(MODEL, TOKENIZER, alone(index).embeds, decoding, stop=stop))
        first = min(at for at in (*map(whole[index].find, stop), len(whole[index])) if at >= 0)
        assert text == alone_text == whole[index][:first]
    assert together != whole


def test_no_token_is_computed_after_every_row_has_stopped():
    decoding = Decoding(max_tokens=30)
    whole = generate(MODEL, TOKENIZER, alone(0), decoding)[0]
    calls = []
    handle = MODEL.language_model.register_forward_pre_hook(lambda *_: calls.append(1))
    generate(MODEL, TOKENIZER, alone(0), decoding, stop=[whole[3]])
    handle.remove()
    assert len(calls) < 20


def test_should_stop_ends_the_answer():
    pieces = list(
        stream(MODEL, TOKENIZER, alone(0).embeds, Decoding(max_tokens=40), should_stop=lambda: True)
    )
    assert len(pieces) <= 2


def test_sampling_repeats_with_its_seed_only():
    def sample(seed):
        return generate(
            MODEL, TOKENIZER, alone(0), Decoding(max_tokens=20, temperature=2.0, seed=seed)
        )

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)


def test_sampled_tokens_are_the_same_alone_and_in_a_batch():
    decoding = Decoding(max_tokens=20, temperature=1.5, seed=7)
    together = generate(MODEL, TOKENIZER, read(list(enumerate(QUESTIONS))), decoding)
    assert together == [generate(MODEL, TOKENIZER, alone(i), decoding)[0] for i in range(3)]
    assert len(set(together)) > 1


def test_an_answer_ends_where_its_own_row_fills_the_context():
    reading = read(list(enumerate(QUESTIONS)))
    lengths = reading.mask.sum(dim=1).tolist()
    room = 6
    small = CONFIG.language.model_copy(update={"context_length": max(lengths) + room})
    model = LlavaUltra(CONFIG.model_copy(update={"language": small}), MODEL.language_model)
    model.load_state_dict(MODEL.state_dict())
    model.eval()
    never = TOKENIZER.pad_token_id  # no row says it by itself
    columns = list(
        iter_tokens(model, reading.embeds, reading.mask, Decoding(max_tokens=99), end_id=never)
    )
    rows = torch.stack(columns, dim=1).tolist()
    made = [row.index(never) if never in row else len(row) for row in rows]
    assert made == [max(lengths) + room - length for length in lengths]


def test_likelihoods_are_those_of_the_tokens_one_by_one():
    rows = [(0, QUESTIONS[0], "良性"), (2, QUESTIONS[2], "甲状腺"), (1, QUESTIONS[1], "恶性")]
    text = collate_texts(TOKENIZER, rows, max_tokens=100)
    found = answer_log_likelihoods(MODEL, TOKENS, MASK, text)
    for value, (index, question, answer) in zip(found, rows, strict=True):
        count = int(MASK[index].sum())
        tokens = TOKENS[index : index + 1, :count]
        mask = torch.ones(1, count, dtype=torch.bool)
        embeds = read([(0, question)], tokens, mask).embeds
        total = 0.0
        for token in [*TOKENIZER.encode(answer), TOKENIZER.eos_token_id]:
            with torch.no_grad():
                logits = MODEL.language_model(inputs_embeds=embeds).logits[0, -1]
            total += float(logits.log_softmax(-1)[token])
            embeds = torch.cat([embeds, MODEL.embed(torch.tensor([[token]]))], dim=1)
        assert float(value) == pytest.approx(total, abs=1e-3)


def test_align_right_moves_padding_and_keeps_the_order():
    embeds = torch.arange(5.0).view(1, 5, 1)
    mask = torch.tensor([[True, False, True, True, False]])
    moved, moved_mask = align_right(embeds, mask)
    assert moved[0, 2:, 0].tolist() == [0.0, 2.0, 3.0]
    assert moved_mask.tolist() == [[False, False, True, True, True]]


@pytest.mark.parametrize("temperature", [1e-320, 1e-40, 1e-6])
def test_a_temperature_too_small_to_divide_by_is_greedy(temperature):
    reading = read([(0, QUESTIONS[0])])
    cold, greedy = (
        generate(MODEL, TOKENIZER, reading, Decoding(max_tokens=8, temperature=value, seed=0))
        for value in (temperature, 0)
    )
    assert cold == greedy
