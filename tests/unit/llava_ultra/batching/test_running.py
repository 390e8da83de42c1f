"""Rows that come and go get the tokens that each gets alone; a spoiled row spoils no other."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import MistralConfig, MistralForCausalLM

from llava_ultra.batching.prefix import PrefixStore, prompt_keys
from llava_ultra.batching.ragged import RaggedDecoder
from llava_ultra.batching.running import Batch, Row, Step
from llava_ultra.decoding.likelihood import answer_log_likelihoods
from llava_ultra.decoding.rules import Penalties, build_decoding
from llava_ultra.decoding.step import Decoding, iter_tokens, read_prompts
from llava_ultra.language.chat import END, token_id
from llava_ultra.model import LlavaUltra
from llava_ultra.testing import enliven, tiny_config, tiny_language, tiny_model

CONFIG = tiny_config()
LANGUAGE = tiny_language(CONFIG)
MODEL = tiny_model(CONFIG, LANGUAGE)
enliven(MODEL.language_model)
END_ID = token_id(LANGUAGE.tokenizer, END)
BYTES_PER_TOKEN = 2 * 2 * 32 * 4


@dataclass(frozen=True, kw_only=True)
class Request:
    ids: tuple[int, ...]
    decoding: Decoding
    arrives: int = 0
    """Step at which it is known."""
    leaves: int | None = None
    """Tokens after which its client is gone."""

    @property
    def full_length(self) -> int:
        return len(self.ids) + self.decoding.max_tokens

    @property
    def embeds(self) -> Tensor:
        with torch.no_grad():
            return MODEL.embed(torch.tensor(self.ids))


def alone_tokens(embeds: Tensor, decoding: Decoding) -> list[int]:
    """The tokens of a prompt that is decoded alone, with transformers' own cache."""
    mask = torch.ones(1, len(embeds), dtype=torch.bool)
    context = read_prompts(MODEL, embeds[None], mask)
    return [int(token) for token in iter_tokens(MODEL, context, decoding, end_id=END_ID)]


def alone(request: Request) -> list[int]:
    return alone_tokens(request.embeds, request.decoding)


def make_batch(
    *,
    max_rows: int = 4,
    num_tokens: int = 4 * 256,
    prefix_bytes: int = 0,
    model: LlavaUltra = MODEL,
) -> Batch:
    decoder = RaggedDecoder(model, max_bytes=num_tokens * BYTES_PER_TOKEN, max_rows=max_rows)
    return Batch(decoder, PrefixStore(max_bytes=prefix_bytes), end_id=END_ID)


def begin(batch: Batch, request: Request) -> Row:
    keys = prompt_keys(request.ids, 0, [])
    return batch.begin(request.embeds, request.decoding, keys=keys)


def run(batch: Batch, requests: Sequence[Request], piece: int = 32) -> list[list[Step]]:
    """Let the requests come, wait their turn, and be answered or dropped."""
    waiting = sorted(range(len(requests)), key=lambda number: requests[number].arrives)
    got: list[list[Step]] = [[] for _ in requests]
    number_of: dict[Row, int] = {}
    time = 0
    while waiting or batch.num_rows:
        first = requests[waiting[0]] if waiting else None
        if first and first.arrives <= time and batch.fits(first.full_length):
            number_of[begin(batch, first)] = waiting.pop(0)
        steps = batch.read(piece)[1] if batch.reading else []
        for step in [*steps, *batch.step()]:
            number = number_of[step.row]
            got[number].append(step)
            if step.reason is None and len(got[number]) == requests[number].leaves:
                batch.drop(step.row)
        time += 1
    return got


def test_the_decoder_of_these_tests_looks_at_its_prompt():
    decoding = Decoding(max_tokens=10)
    ids = tuple(range(40))
    answers = {
        tuple(alone(Request(ids=(n, *ids[1:]), decoding=decoding))) for n in range(0, 300, 30)
    }
    assert len(answers) > 5
    assert all(len(set(answer)) > 3 for answer in answers)


ids_strategy = st.lists(st.integers(0, 299), min_size=1, max_size=90).map(tuple)
greedy = st.builds(
    Request,
    ids=ids_strategy,
    decoding=st.builds(Decoding, max_tokens=st.integers(1, 40)),
    arrives=st.integers(0, 30),
    leaves=st.one_of(st.none(), st.integers(1, 20)),
)


@settings(max_examples=12, deadline=None)
@given(
    requests=st.lists(greedy, min_size=1, max_size=8),
    max_rows=st.integers(1, 5),
    num_tokens=st.integers(256, 700),
    piece=st.integers(1, 64),
    prefix_bytes=st.sampled_from([0, 40_000, 10_000_000]),
)
def test_greedy_tokens_are_those_of_each_row_alone(
    requests: list[Request], max_rows: int, num_tokens: int, piece: int, prefix_bytes: int
):
    batch = make_batch(max_rows=max_rows, num_tokens=num_tokens, prefix_bytes=prefix_bytes)
    for request, steps in zip(requests, run(batch, requests, piece), strict=True):
        assert [step.token for step in steps] == alone(request)[: request.leaves]
    assert batch.num_rows == 0


@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_rows_draw_as_they_do_alone(top_p: float):
    requests = [
        Request(
            ids=tuple(range(20 + 7 * seed)),
            decoding=build_decoding(max_tokens=20, temperature=1.5, top_p=top_p, seed=seed),
            arrives=2 * seed,
        )
        for seed in range(4)
    ]
    got = run(make_batch(), requests)
    assert [[step.token for step in steps] for steps in got] == [alone(each) for each in requests]
    assert len({tuple(step.token for step in steps) for steps in got}) == 4


def test_rows_are_penalised_for_what_each_has_said():
    requests = [
        Request(
            ids=tuple(range(30 + number)),
            decoding=build_decoding(
                max_tokens=25, penalties=Penalties(frequency=0.4 * number, presence=0.3)
            ),
            arrives=3 * number,
        )
        for number in range(3)
    ]
    got = run(make_batch(), requests)
    tokens = [[step.token for step in steps] for steps in got]
    assert tokens == [alone(each) for each in requests]
    plain = Request(ids=requests[2].ids, decoding=Decoding(max_tokens=25))
    assert tokens[2] != alone(plain)


def test_a_row_tells_how_likely_its_tokens_were_before_any_rule():
    request = Request(
        ids=tuple(range(40)),
        decoding=build_decoding(max_tokens=6, penalties=Penalties(presence=2.0)),
    )
    batch = make_batch()
    batch.begin(request.embeds, request.decoding, num_likeliest=3)
    steps = batch.read(1000)[1]
    while batch.num_rows:
        steps += batch.step()
    tokens = [step.token for step in steps]
    with torch.no_grad():
        embeds = torch.cat([request.embeds, MODEL.embed(torch.tensor(tokens[:-1]))])
        logits = MODEL.language_model(inputs_embeds=embeds[None]).logits[0, -len(tokens) :]
    expected = logits.float().log_softmax(dim=-1)
    for number, step in enumerate(steps):
        assert step.score is not None
        assert step.score.token == step.token
        assert step.score.log_prob == pytest.approx(float(expected[number, step.token]), abs=1e-4)
        best = expected[number].topk(3)
        assert [token for token, _ in step.score.likeliest] == best.indices.tolist()
        values = [value for _, value in step.score.likeliest]
        assert values == pytest.approx(best.values.tolist(), abs=1e-4)


options_strategy = st.lists(
    st.lists(st.integers(0, 299), min_size=1, max_size=7), min_size=1, max_size=5
)


@settings(max_examples=10, deadline=None)
@given(
    prompt=ids_strategy,
    options=options_strategy,
    piece=st.integers(1, 64),
    prefix_bytes=st.sampled_from([0, 10_000_000]),
    leaves_at=st.integers(0, 6),
)
def test_options_are_scored_as_alone_while_others_answer(
    prompt: tuple[int, ...],
    options: list[list[int]],
    piece: int,
    prefix_bytes: int,
    leaves_at: int,
):
    mask = torch.ones(1, len(prompt), dtype=torch.bool)
    embeds = MODEL.embed(torch.tensor(prompt)).detach()
    context = read_prompts(MODEL, embeds[None], mask)
    expected = answer_log_likelihoods(
        MODEL, context, [0] * len(options), options, max_tokens=10_000
    )
    batch = make_batch(prefix_bytes=prefix_bytes)
    others = [
        begin_and_read(batch, Request(ids=tuple(range(n)), decoding=Decoding(max_tokens=40)))
        for n in (20, 33)
    ]
    longest = max(map(len, options))
    row = batch.begin(
        embeds,
        Decoding(max_tokens=longest),
        keys=prompt_keys(prompt, 0, []),
        options=options,
    )
    ended = []
    for time in range(1_000):
        if time == leaves_at:
            batch.drop(others[0])  # the row's slot moves under it
        ended += [step for step in batch.read(piece)[1] if step.row is row]
        if ended:
            break
        batch.step()
    assert [step.reason for step in ended] == ["scored"]
    assert row.likelihoods == pytest.approx(expected.tolist(), abs=1e-3)
    assert batch.reading is None


def begin_and_read(batch: Batch, request: Request) -> Row:
    row = begin(batch, request)
    batch.read(1000)
    return row


def test_a_second_question_about_the_same_images_reads_its_text_alone():
    images = [torch.full((50, 32), 0.1), torch.full((50, 32), 0.2)]
    batch = make_batch(prefix_bytes=10_000_000)
    decoding = Decoding(max_tokens=5)

    def ask(text: tuple[int, ...]) -> list[int]:
        words = MODEL.embed(torch.tensor(text)).detach()
        embeds = torch.cat([words[:1], *images, words[1:]])
        batch.begin(embeds, decoding, keys=prompt_keys(text, 1, images))
        steps = batch.read(1000)[1]
        while batch.num_rows:
            steps += batch.step()
        assert [step.token for step in steps] == alone_tokens(embeds, decoding)
        return [batch.num_read, batch.num_shared]

    assert ask((1, 7, 8, 9)) == [104, 0]
    assert ask((1, 10, 11)) == [106, 101]
    assert ask((1, 10, 11)) == [108, 202]
    images.reverse()  # the same images in another order share nothing but what stands before them
    assert ask((1, 10, 11)) == [210, 203]


def test_room_is_counted_for_the_whole_answer_before_a_row_begins():
    batch = make_batch(max_rows=4, num_tokens=300)
    assert batch.fits(256)
    begin(batch, Request(ids=tuple(range(60)), decoding=Decoding(max_tokens=40)))
    assert not batch.fits(1)  # one prompt at a time
    batch.read(1000)
    assert batch.fits(128)  # rows of 128 columns
    assert not batch.fits(160)  # two of 160 are 320
    assert batch.could_fit(160)
    assert not batch.could_fit(301)


def test_a_spoiled_row_fails_alone_and_leaves_nothing_behind():
    good = Request(ids=tuple(range(40)), decoding=Decoding(max_tokens=30))
    batch = make_batch(max_rows=3, prefix_bytes=10_000_000)
    rows = [begin(batch, good)]
    steps = batch.read(1000)[1] + batch.step()
    poison = Request(ids=tuple(range(80)), decoding=Decoding(max_tokens=9))
    spoiled = torch.full_like(poison.embeds, torch.nan)
    batch.begin(spoiled, poison.decoding, keys=prompt_keys([2**20] * 80, 0, []))
    (failed,) = batch.read(1000)[1]
    assert failed.reason == "failed"
    rows.append(begin(batch, good))
    steps += batch.read(1000)[1]
    while batch.num_rows:
        steps += batch.step()
    for row in rows:
        assert [step.token for step in steps if step.row is row] == alone(good)
    assert batch.num_shared == 32  # the good one's
    assert len(batch._prefixes) == 1  # nothing of the poison was stored


def test_all_rows_can_be_let_go_and_the_slots_are_clean_afterwards():
    good = Request(ids=tuple(range(40)), decoding=Decoding(max_tokens=10))
    batch = make_batch(max_rows=3)
    for _ in range(2):
        begin(batch, good)
        batch.read(1000)
    begin(batch, good)
    batch.read(10)
    batch._decoder.slots._memory.fill_(torch.nan)
    batch.clear()
    assert batch.num_rows == 0
    assert batch.reading is None
    ((tokens,),) = [[[step.token for step in run(batch, [good])[0]]]]
    assert tokens == alone(good)


def test_memory_for_less_than_one_context_is_refused():
    with pytest.raises(ValueError, match="give at least 131,072 bytes"):
        RaggedDecoder(MODEL, max_bytes=131_071, max_rows=1)


@pytest.mark.parametrize("window", [9, 64])
def test_a_windowed_decoder_sees_its_window(window: int):
    torch.manual_seed(0)
    decoder = MistralForCausalLM(
        MistralConfig(
            vocab_size=300,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            sliding_window=window,
        )
    ).eval()
    model = LlavaUltra(CONFIG, decoder).eval()
    ragged = RaggedDecoder(model, max_bytes=10_000_000, max_rows=2)
    with torch.no_grad():
        embeds = model.embed(torch.arange(70))
        ragged.read(0, 0, embeds[:33])
        logits = ragged.read(0, 33, embeds[33:])
        expected = decoder(inputs_embeds=embeds[None]).logits[0, -1]
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def test_a_decoder_that_reads_more_from_its_mask_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(RaggedDecoder, "_masks", lambda *_: None)
    with pytest.raises(ValueError, match="cannot be served this way"):
        RaggedDecoder(MODEL, max_bytes=10_000_000, max_rows=2)
