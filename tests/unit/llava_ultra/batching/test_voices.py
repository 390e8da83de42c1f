"""A row with voices gets the tokens that separate readings give, among rows that come and go."""

import copy
from collections.abc import Sequence

import pytest
import torch
from peft import get_peft_model_state_dict
from torch import Tensor, nn

from llava_ultra.batching.adapters import NONE, AdapterBank
from llava_ultra.batching.prefix import PrefixStore, block_keys, prompt_keys
from llava_ultra.batching.ragged import RaggedDecoder
from llava_ultra.batching.running import Batch, Row
from llava_ultra.batching.voices import Voice, Voices
from llava_ultra.decoding.rules import Without
from llava_ultra.decoding.step import Decoding
from llava_ultra.language.chat import END, token_id
from llava_ultra.language.lora import add_lora
from llava_ultra.model import LlavaUltra
from llava_ultra.testing import enliven, tiny_config, tiny_language

CONFIG = tiny_config()
LANGUAGE = tiny_language(CONFIG)
enliven(LANGUAGE.model)
END_ID = token_id(LANGUAGE.tokenizer, END)
NAMES = ("one", "two", "three")


def adapted(seed: int) -> nn.Module:
    model = add_lora(copy.deepcopy(LANGUAGE.model), CONFIG.lora).eval()
    generator = torch.Generator().manual_seed(seed)
    for path, parameter in model.named_parameters():
        if "lora_B" in path:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return model


PEFT = {name: adapted(seed) for seed, name in enumerate(NAMES)}


def embed(ids: Sequence[int]) -> Tensor:
    with torch.no_grad():
        table: nn.Embedding = LANGUAGE.model.get_input_embeddings()
        return table(torch.tensor(ids))


def make_batch(max_rows: int = 16, prefix_bytes: int = 0) -> Batch:
    model = LlavaUltra(CONFIG, copy.deepcopy(LANGUAGE.model)).eval()
    bank = AdapterBank(model.language_model)
    for name, peft in PEFT.items():
        bank.add(name, get_peft_model_state_dict(peft), CONFIG.lora)
    decoder = RaggedDecoder(model, max_bytes=20_000_000, max_rows=max_rows, adapters=bank)
    return Batch(decoder, PrefixStore(max_bytes=prefix_bytes), end_id=END_ID)


def contrast(logits: Tensor, chosen: Sequence[Sequence[int]]) -> Tensor:
    """Every voice counts, and so does how far an answer is."""
    weights = torch.tensor([1.0, 0.8, -0.6, 0.4])[: logits.shape[1]]
    far = torch.tensor([1.0 if len(ids) % 2 else 1.3 for ids in chosen])
    return (weights[:, None] * logits).sum(dim=1) * far[:, None]


def own_voices(prompt: Sequence[int], other: Sequence[int]) -> Voices:
    """Two adapters that read the row's prompt by themselves, and one that reads another."""
    keys = block_keys([t.to_bytes(4) for t in other], ends=[len(other) - 1], salt=b"one")
    return Voices(
        members=[
            Voice(adapter="two", embeds=embed(prompt)),
            Voice(adapter="three", embeds=embed(prompt)),
            Voice(adapter="one", embeds=embed(other), keys=keys),
        ],
        contrast=contrast,
    )


def by_hand(prompts: Sequence[tuple[str, Sequence[int]]], max_tokens: int) -> list[int]:
    """Tokens where each reading is made anew for each of them, with PEFT's adapters."""
    ids: list[int] = []
    while len(ids) < max_tokens and ids[-1:] != [END_ID]:
        with torch.no_grad():
            logits = [
                PEFT[name](inputs_embeds=embed([*prompt, *ids])[None]).logits[0, -1]
                for name, prompt in prompts
            ]
        ids.append(int(contrast(torch.stack(logits).float()[None], [ids]).argmax()))
    return ids


def finish(batch: Batch, piece: int = 1000) -> None:
    while batch.num_rows:
        if batch.reading is not None:
            batch.read(piece)
        batch.step()


@pytest.mark.parametrize("piece", [1, 7, 1000])
@pytest.mark.parametrize("prefix_bytes", [0, 10_000_000])
def test_tokens_are_those_of_separate_readings(piece: int, prefix_bytes: int):
    batch = make_batch(prefix_bytes=prefix_bytes)
    other = list(range(100, 140))
    rows: dict[Row, list[int]] = {}
    plain = list(range(60, 90))
    for number in range(3):
        prompt = list(range(10 * number, 10 * number + 20))
        row = batch.begin(
            embed(prompt),
            Decoding(max_tokens=6 + 3 * number),
            adapter="one",
            voices=own_voices(prompt, other),
        )
        rows[row] = prompt
        while batch.reading is not None:
            batch.read(piece)
        batch.step()
        if number == 1:  # a row without voices between them, dropped later
            lone = batch.begin(embed(plain), Decoding(max_tokens=30), adapter=NONE)
            batch.read(1000)
    batch.drop(lone)
    finish(batch)
    for number, (row, prompt) in enumerate(rows.items()):
        readings = [("one", prompt), ("two", prompt), ("three", prompt), ("one", other)]
        assert row.ids == by_hand(readings, 6 + 3 * number)
    assert len({tuple(row.ids) for row in rows}) == 3
    # the prompts, and the other one once where it is kept
    shared = 2 * (len(other) - 1) if prefix_bytes else 0
    assert batch.num_shared == shared


def test_a_shared_prompt_is_the_leading_adapters_and_read_once():
    prompt = list(range(30))
    members = [Voice(adapter="two"), Voice(adapter="three")]
    batch = make_batch()
    row = batch.begin(
        embed(prompt),
        Decoding(max_tokens=8),
        adapter="one",
        voices=Voices(members=members, contrast=contrast),
    )
    finish(batch)
    assert batch.num_read == len(prompt) - 1

    ids: list[int] = []
    while len(ids) < 8 and ids[-1:] != [END_ID]:
        logits = []
        for name in NAMES:
            with torch.no_grad():
                cache = PEFT["one"](inputs_embeds=embed(prompt[:-1])[None]).past_key_values
                tail = embed([prompt[-1], *ids])[None]
                out = PEFT[name](inputs_embeds=tail, past_key_values=cache)
            logits.append(out.logits[0, -1])
        ids.append(int(contrast(torch.stack(logits).float()[None], [ids]).argmax()))
    assert row.ids == ids


def test_the_voices_leave_with_their_row_and_need_room():
    batch = make_batch(max_rows=5)
    prompt = list(range(20))
    lengths = [30] * 4
    assert batch.fits(*lengths)
    given = {"adapter": "one", "voices": own_voices(prompt, prompt[:9])}
    row = batch.begin(embed(prompt), Decoding(max_tokens=10), **given)
    batch.read(1000)
    assert batch.num_rows == 4
    assert not batch.fits(*lengths)
    assert batch.fits(30)
    batch.step()
    batch.drop(row)
    assert batch.num_rows == 0
    assert batch.fits(*lengths)


def test_a_voice_without_numbers_fails_its_row_alone():
    batch = make_batch()
    prompt = list(range(20))
    spoiled = embed(prompt[:9]).clone()
    spoiled[3] = torch.nan
    voices = Voices(members=[Voice(adapter="two", embeds=spoiled)], contrast=contrast)
    bad = batch.begin(embed(prompt), Decoding(max_tokens=10), adapter="one", voices=voices)
    batch.read(1000)
    good = batch.begin(embed(prompt), Decoding(max_tokens=4), adapter="one")
    first = batch.read(1000)[1]
    steps = batch.step()
    assert [step.reason for step in steps if step.row is bad] == ["failed"]
    assert batch.num_rows == 1
    finish(batch)
    assert len(good.ids) == 4
    assert first[0].row is good


def test_a_spoiled_prompt_does_not_reach_the_store():
    batch = make_batch(prefix_bytes=1 << 24)
    prompt = list(range(40))
    spoiled = embed(prompt).clone()
    spoiled[3] = torch.nan
    keys = prompt_keys(prompt, 0, [], adapter="one")
    voices = Voices(members=[Voice(adapter="two")], contrast=contrast)
    batch.begin(spoiled, Decoding(max_tokens=4), keys=keys, adapter="one", voices=voices)
    batch.read(1000)
    assert [step.reason for step in batch.step()] == ["failed"]
    good = batch.begin(embed(prompt), Decoding(max_tokens=4), keys=keys, adapter="one")
    finish(batch)
    assert len(good.ids) == 4


def test_where_nothing_plausible_may_be_said_the_leading_row_speaks_alone():
    def one_token(logits: Tensor, chosen: Sequence[Sequence[int]]) -> Tensor:
        return torch.full_like(logits[:, 0], -torch.inf).index_fill(1, torch.tensor([7]), 0.0)

    batch = make_batch()
    prompt = list(range(20))
    voices = Voices(members=[Voice(adapter="two")], contrast=one_token)
    without = Decoding(max_tokens=3, rules=(Without(token=7),))
    led = batch.begin(embed(prompt), without, adapter="one", voices=voices)
    finish(batch)
    alone = batch.begin(embed(prompt), without, adapter="one")
    finish(batch)
    assert led.ids == alone.ids
