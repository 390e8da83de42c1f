import torch

from llava_ultra.batch import collate_texts
from llava_ultra.config import KeepAllSampling
from llava_ultra.decoding.step import (
    Decoding,
    align_right,
    branch,
    choose,
    extend,
    iter_tokens,
    read_prompts,
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


def read_all():
    reading = read(list(enumerate(QUESTIONS)))
    return read_prompts(MODEL, reading.embeds, reading.mask)


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
        iter_tokens(
            model,
            read_prompts(model, reading.embeds, reading.mask),
            Decoding(max_tokens=99),
            end_id=never,
        )
    )
    rows = torch.stack(columns, dim=1).tolist()
    made = [row.index(never) if never in row else len(row) for row in rows]
    assert made == [max(lengths) + room - length for length in lengths]


def test_align_right_moves_padding_and_keeps_the_order():
    embeds = torch.arange(5.0).view(1, 5, 1)
    mask = torch.tensor([[True, False, True, True, False]])
    moved, moved_mask = align_right(embeds, mask)
    assert moved[0, 2:, 0].tolist() == [0.0, 2.0, 3.0]
    assert moved_mask.tolist() == [[False, False, True, True, True]]


def test_a_prompt_reads_as_the_decoder_reads_it_without_a_cache():
    context = read_all()
    for index, question in enumerate(QUESTIONS):
        count = int(MASK[index].sum())
        reading = read(
            [(0, question)], TOKENS[index : index + 1, :count], torch.ones(1, count).bool()
        )
        with torch.no_grad():
            logits = MODEL.language_model(inputs_embeds=reading.embeds).logits
        assert torch.allclose(context.logits[index], logits[0, -1], atol=1e-5)
        assert int(context.last[index]) == logits.shape[1] - 1


def test_a_branch_goes_its_own_way_and_leaves_the_prompts_as_they_were():
    context = read_all()
    before = [layer.keys.clone() for layer in context.cache.layers]
    rows = torch.tensor([2, 0, 2])
    ids = torch.tensor([[5, 6, 7], [8, 9, 10], [11, 12, 13]])
    _, logits = extend(MODEL, branch(context, rows), ids, all_logits=True)
    for layer, keys in zip(context.cache.layers, before, strict=True):
        assert torch.equal(layer.keys, keys)
    alone = read_all()
    for row in range(3):
        _, own = extend(
            MODEL, branch(alone, rows[row : row + 1]), ids[row : row + 1], all_logits=True
        )
        assert torch.allclose(logits[row], own[0], atol=1e-5)


def test_tokens_fed_one_by_one_are_tokens_fed_at_once():
    ids = torch.tensor([[5, 6, 7], [8, 9, 10], [11, 12, 13]])
    at_once, _ = extend(MODEL, read_all(), ids)
    context = read_all()
    for column in ids.T:
        context, logits = extend(MODEL, context, column[:, None])
        assert logits.shape[1] == 1
    assert torch.allclose(context.logits, at_once.logits, atol=1e-5)
    assert torch.equal(context.last, at_once.last)


def test_any_function_of_logits_is_a_rule():
    logits = torch.tensor([[0.0, 3.0, 1.0], [2.0, 0.0, 1.0]])
    assert choose(logits, Decoding(), [None, None]).tolist() == [1, 0]

    def turned(values, chosen):
        return -values

    assert choose(logits, Decoding(rules=(turned,)), [None, None]).tolist() == [0, 1]
    twice = Decoding(rules=(turned, turned))
    assert choose(logits, twice, [None, None]).tolist() == [1, 0]
