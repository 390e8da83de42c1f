"""Every row gets its own adapter and no other's, in any mix, and after any failure."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import get_peft_model_state_dict
from torch import Tensor, nn

from llava_ultra.batching.adapters import NONE, AdapterBank
from llava_ultra.batching.prefix import PrefixStore, prompt_keys
from llava_ultra.batching.ragged import RaggedDecoder
from llava_ultra.batching.running import Batch, Step
from llava_ultra.config import LoraSettings
from llava_ultra.decoding.step import Decoding, iter_tokens, read_prompts
from llava_ultra.language.chat import END, token_id
from llava_ultra.language.lora import add_lora
from llava_ultra.model import LlavaUltra
from llava_ultra.testing import enliven, tiny_config, tiny_language

CONFIG = tiny_config()
LANGUAGE = tiny_language(CONFIG)
enliven(LANGUAGE.model)
END_ID = token_id(LANGUAGE.tokenizer, END)

SETTINGS = {
    "breast": CONFIG.lora,
    "liver": CONFIG.lora.model_copy(update={"rank": 7, "alpha": 20, "variant": "rslora"}),
    "thyroid": CONFIG.lora.model_copy(
        update={"rank": 2, "target_modules": CONFIG.lora.target_modules[:1]}
    ),
}


def adapted(name: str, lora: LoraSettings) -> nn.Module:
    """The decoder with an adapter of its own that changes what it says, as PEFT runs it."""
    model = add_lora(copy.deepcopy(LANGUAGE.model), lora).eval()
    generator = torch.Generator().manual_seed(len(name))
    for path, parameter in model.named_parameters():
        if "lora_B" in path:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return model


ADAPTED = {name: adapted(name, lora) for name, lora in SETTINGS.items()}
STATES = {name: get_peft_model_state_dict(model) for name, model in ADAPTED.items()}
ALONE = {
    NONE: LlavaUltra(CONFIG, copy.deepcopy(LANGUAGE.model)).eval(),
    **{name: LlavaUltra(CONFIG, model).eval() for name, model in ADAPTED.items()},
}


def make_bank() -> tuple[LlavaUltra, AdapterBank]:
    model = LlavaUltra(CONFIG, copy.deepcopy(LANGUAGE.model)).eval()
    bank = AdapterBank(model.language_model)
    for name, state in STATES.items():
        bank.add(name, state, SETTINGS[name])
    return model, bank


def logits_of(model: LlavaUltra, embeds: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model.language_model(inputs_embeds=embeds).logits
        return logits


def embed(ids: list[int]) -> Tensor:
    with torch.no_grad():
        return ALONE[NONE].embed(torch.tensor(ids))


def alone_tokens(name: str, ids: list[int], max_tokens: int) -> list[int]:
    mask = torch.ones(1, len(ids), dtype=torch.bool)
    context = read_prompts(ALONE[name], embed(ids)[None], mask)
    decoding = Decoding(max_tokens=max_tokens)
    return [int(t) for t in iter_tokens(ALONE[name], context, decoding, end_id=END_ID)]


names = st.sampled_from(sorted(ALONE))


@settings(max_examples=30, deadline=None)
@given(mix=st.lists(names, min_size=1, max_size=6), seed=st.integers(0, 99))
def test_a_mix_gives_every_row_what_peft_gives_it_alone(mix: list[str], seed: int):
    model, bank = make_bank()
    embeds = torch.randn(len(mix), 5, 32, generator=torch.Generator().manual_seed(seed))
    bank.choose(mix)
    together = logits_of(model, embeds)
    for row, name in enumerate(mix):
        expected = logits_of(ALONE[name], embeds[row : row + 1])[0]
        torch.testing.assert_close(together[row], expected, atol=1e-4, rtol=1e-4)


def test_the_adapters_of_these_tests_say_different_things():
    ids = list(range(30))
    answers = {name: tuple(alone_tokens(name, ids, 12)) for name in ALONE}
    assert len(set(answers.values())) == len(ALONE)


@settings(max_examples=12, deadline=None)
@given(
    asked=st.lists(
        st.tuples(
            names,
            st.lists(st.integers(0, 299), min_size=1, max_size=40),
            st.integers(1, 20),
            st.integers(0, 10),
        ),
        min_size=1,
        max_size=7,
    ),
    max_rows=st.integers(1, 4),
    piece=st.integers(1, 64),
    prefix_bytes=st.sampled_from([0, 10_000_000]),
)
def test_no_row_of_a_running_batch_ever_gets_anothers_adapter(
    asked: list[tuple[str, list[int], int, int]], max_rows: int, piece: int, prefix_bytes: int
):
    model, bank = make_bank()
    decoder = RaggedDecoder(model, max_bytes=10_000_000, max_rows=max_rows, adapters=bank)
    batch = Batch(decoder, PrefixStore(max_bytes=prefix_bytes), end_id=END_ID)
    waiting = sorted(range(len(asked)), key=lambda number: asked[number][3])
    rows, steps, time = {}, list[Step](), 0
    while waiting or batch.num_rows:
        if waiting and asked[waiting[0]][3] <= time:
            name, ids, max_tokens, _ = asked[waiting[0]]
            if batch.fits(len(ids) + max_tokens):
                number = waiting.pop(0)
                rows[number] = batch.begin(
                    embed(ids),
                    Decoding(max_tokens=max_tokens),
                    keys=prompt_keys(ids, 0, [], adapter=name),
                    adapter=name,
                )
        if batch.reading:
            steps += batch.read(piece)[1]
        steps += batch.step()
        time += 1
    for number, (name, ids, max_tokens, _) in enumerate(asked):
        got = [step.token for step in steps if step.row is rows[number]]
        assert got == alone_tokens(name, ids, max_tokens)


def test_adapters_come_and_go_without_a_trace():
    model, bank = make_bank()
    embeds = embed(list(range(20)))[None]
    plain = logits_of(ALONE[NONE], embeds)
    bank.choose(["breast"])
    assert not torch.allclose(logits_of(model, embeds), plain, atol=1e-3)
    bank.remove("breast")
    assert bank.names == {"liver", "thyroid"}
    with pytest.raises(ValueError, match="no adapter 'breast'"):
        bank.choose(["liver", "breast"])
    bank.choose([NONE])
    torch.testing.assert_close(logits_of(model, embeds), plain, atol=1e-6, rtol=0)
    bank.add("breast", STATES["liver"], SETTINGS["liver"])  # another one of that name
    bank.choose(["breast"])
    expected = logits_of(ALONE["liver"], embeds)
    torch.testing.assert_close(logits_of(model, embeds), expected, atol=1e-4, rtol=1e-4)


def test_a_failure_in_a_pass_leaves_nothing_behind():
    model, bank = make_bank()
    embeds = embed(list(range(20)))[None]
    bank.choose(["breast"])
    with pytest.raises(RuntimeError):
        logits_of(model, embeds[..., :7])
    bank.choose(["liver"])
    expected = logits_of(ALONE["liver"], embeds)
    torch.testing.assert_close(logits_of(model, embeds), expected, atol=1e-4, rtol=1e-4)


def test_what_does_not_fit_is_refused_and_changes_nothing():
    model, bank = make_bank()
    dora = SETTINGS["breast"].model_copy(update={"variant": "dora"})
    with pytest.raises(ValueError, match="cannot share a batch"):
        bank.add("x", STATES["breast"], dora)
    key = next(key for key in STATES["breast"] if key.endswith("lora_A.weight"))
    wide = {**STATES["breast"], key: torch.zeros(4, 999)}
    with pytest.raises(ValueError, match="belongs to another decoder"):
        bank.add("x", wide, SETTINGS["breast"])
    with pytest.raises(ValueError, match="which the decoder lacks"):
        bank.add(
            "x",
            {k.replace("layers.0", "layers.99"): v for k, v in wide.items()},
            dora.model_copy(update={"variant": "lora"}),
        )
    with pytest.raises(ValueError, match="no pairs"):
        bank.add("x", {key: STATES["breast"][key]}, SETTINGS["breast"])
    up = key.replace("lora_A", "lora_B")
    odd = torch.full_like(STATES["breast"][up], torch.nan)
    with pytest.raises(ValueError, match="are not finite"):
        bank.add("x", {**STATES["breast"], up: odd}, SETTINGS["breast"])
    assert bank.names == set(SETTINGS)
    bank.choose(["breast"])
    embeds = embed(list(range(20)))[None]
    expected = logits_of(ALONE["breast"], embeds)
    torch.testing.assert_close(logits_of(model, embeds), expected, atol=1e-4, rtol=1e-4)
