import pytest
import torch

from llava_ultra.batch import collate_texts
from llava_ultra.config import KeepAllSampling
from llava_ultra.decoding.step import Decoding, read_prompts
from llava_ultra.decoding.text import generate, stream
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


def answers(reading, decoding, stop=()):
    return [each.text for each in whole_answers(reading, decoding, stop)]


def whole_answers(reading, decoding, stop=()):
    context = read_prompts(MODEL, reading.embeds, reading.mask)
    return generate(MODEL, TOKENIZER, context, decoding, stop=stop)


def test_a_batch_gives_the_same_text_as_each_alone():
    decoding = Decoding(max_tokens=24)
    together = answers(read(list(enumerate(QUESTIONS))), decoding)
    assert together == [answers(alone(i), decoding)[0] for i in range(3)]
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
    assert answers(reading, Decoding(max_tokens=12)) == [TOKENIZER.decode(ids)]


@pytest.mark.parametrize("index", range(3))
def test_the_stream_joins_to_the_whole(index):
    decoding = Decoding(max_tokens=40)
    pieces = list(stream(MODEL, TOKENIZER, alone(index).embeds, decoding))
    assert "".join(pieces) == answers(alone(index), decoding)[0]
    assert len(pieces) > 1
    # an incomplete character may stand at the very end only, where the answer was cut
    assert all(not piece.endswith("\ufffd") for piece in pieces[:-1])


def test_a_stop_string_ends_the_answer_and_is_not_part_of_it():
    decoding = Decoding(max_tokens=40)
    whole = answers(alone(0), decoding)[0]
    word = whole[5:7]
    cut = "".join(stream(MODEL, TOKENIZER, alone(0).embeds, decoding, stop=[word]))
    assert cut == whole[: whole.index(word)]


def test_stop_strings_cut_each_row_of_a_batch_as_they_cut_it_alone():
    decoding = Decoding(max_tokens=30)
    whole = answers(read(list(enumerate(QUESTIONS))), decoding)
    stop = [whole[0][5:7], whole[1][9:11]]
    reading = read(list(enumerate(QUESTIONS)))
    together = answers(reading, decoding, stop=stop)
    for index, text in enumerate(together):
        alone_text = "".join(stream(MODEL, TOKENIZER, alone(index).embeds, decoding, stop=stop))
        first = min(at for at in (*map(whole[index].find, stop), len(whole[index])) if at >= 0)
        assert text == alone_text == whole[index][:first]
    assert together != whole


def test_no_token_is_computed_after_every_row_has_stopped():
    decoding = Decoding(max_tokens=30)
    whole = answers(alone(0), decoding)[0]
    calls = []
    handle = MODEL.language_model.register_forward_pre_hook(lambda *_: calls.append(1))
    answers(alone(0), decoding, stop=[whole[3]])
    handle.remove()
    assert len(calls) < 20


def test_should_stop_ends_the_answer():
    pieces = list(
        stream(MODEL, TOKENIZER, alone(0).embeds, Decoding(max_tokens=40), should_stop=lambda: True)
    )
    assert len(pieces) <= 2


class EndsAfter:
    """A decoding rule: the end token after `count` others, and never before."""

    def __init__(self, count):
        self.count = count

    def __call__(self, logits, _chosen):
        chosen = torch.full_like(logits, -torch.inf)
        end = TOKENIZER.eos_token_id
        if self.count:
            chosen = logits.clone()
            chosen[:, end] = -torch.inf
        else:
            chosen[:, end] = 0.0
        self.count -= self.count > 0
        return chosen


@pytest.mark.parametrize(("length", "is_cut"), [(2, False), (3, False), (4, True), (9, True)])
def test_an_answer_is_cut_where_it_had_more_to_say(length, is_cut):
    decoding = Decoding(max_tokens=4, rules=(EndsAfter(length),))
    (answer,) = whole_answers(alone(0), decoding)
    assert answer.is_cut is is_cut


def test_an_answer_that_fills_the_context_is_cut_and_one_that_ends_before_is_not():
    reading = read(list(enumerate(QUESTIONS)))
    room = (CONFIG.language.context_length - reading.mask.sum(dim=1)).tolist()
    assert len(set(room)) == 3
    cut = whole_answers(reading, Decoding(max_tokens=10_000, rules=(EndsAfter(10_000),)))
    assert [each.is_cut for each in cut] == [True] * 3
    shorter = sorted(room)[1] - 1
    ended = whole_answers(reading, Decoding(max_tokens=10_000, rules=(EndsAfter(shorter),)))
    assert [each.is_cut for each in ended] == [space <= shorter for space in room]


def test_an_answer_that_a_stop_string_ends_is_whole():
    (whole,) = answers(alone(0), Decoding(max_tokens=8))
    (stopped,) = whole_answers(alone(0), Decoding(max_tokens=8), stop=(whole[:2],))
    assert (stopped.text, stopped.is_cut) == ("", False)
