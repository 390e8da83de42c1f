"""What contrastive decoding costs in the engine beside plain decoding: CPU time, in one process.

Run: `python bench/contrast_decoding.py [--at-once 1 16] [--reports 32] [--prompt 150]
[--answer 60]`.

A decoder of the preset `tiny` with random weights and random adapters reads random reports; every
answer has its full length, so that both ways decode as many tokens. Plainly a report is one row,
by contrast four (`llava_ultra.batching.voices`), with the prompt of the first one shared or read by
each adapter. The ways take turns in each round, on one thread; the medians over rounds are shown,
and the median of the ratios within a round.
"""

import argparse
import json
import statistics
import time

import torch
from peft import get_peft_model_state_dict

from llava_ultra.batching.adapters import AdapterBank
from llava_ultra.batching.prefix import PrefixStore, block_keys
from llava_ultra.batching.ragged import RaggedDecoder
from llava_ultra.batching.running import Batch
from llava_ultra.batching.voices import Voice, Voices
from llava_ultra.decoding.contrast import AlternateContrast
from llava_ultra.decoding.contrast_config import ContrastConfig
from llava_ultra.decoding.rules import Without
from llava_ultra.decoding.step import Decoding
from llava_ultra.language.decoder import build_language_model
from llava_ultra.language.lora import add_lora
from llava_ultra.language.role_names import ROLES
from llava_ultra.language.tokenizer import train_tokenizer
from llava_ultra.model import LlavaUltra
from llava_ultra.testing import TEXTS
from sonoray_jobs.road.config import load_road

WAYS = ("plain", "contrast", "contrast, own prompts")
MARK, SEPARATOR, END = 10, 11, 2
BARE = list(range(20, 45))
"""The prompt without a report."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--reports", type=int, default=32)
    parser.add_argument("--prompt", type=int, default=150)
    parser.add_argument("--answer", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    batch, model = make_batch(4 * max(given.at_once))
    for at_once in given.at_once:
        times: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(given.rounds):
            for way in WAYS:
                begun = time.process_time()
                answer(batch, model, way, at_once=at_once, given=given)
                times[way].append(1000 * (time.process_time() - begun) / given.reports)
        ratios = {
            way: statistics.median(
                own / plain for own, plain in zip(times[way], times["plain"], strict=True)
            )
            for way in WAYS
        }
        shown = {
            way: {"ms_a_report": round(statistics.median(times[way]), 2), "ratio": round(ratio, 2)}
            for way, ratio in ratios.items()
        }
        print(json.dumps({"at_once": at_once, **shown}))


def make_batch(rows: int) -> tuple[Batch, LlavaUltra]:
    """The engine's batch with three adapters on a decoder that nobody has trained."""
    config = load_road("tiny").model
    torch.manual_seed(0)
    tokenizer = train_tokenizer(TEXTS, config.language.vocab_size)
    decoder = build_language_model(
        config.language.model_copy(update={"vocab_size": len(tokenizer)}), tokenizer
    )
    states = {}
    for role in ROLES:
        adapted = add_lora(decoder, config.lora)
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(std=0.1)
        states[role] = get_peft_model_state_dict(adapted)
        decoder = adapted.unload()
    model = LlavaUltra(config, decoder).eval()
    bank = AdapterBank(decoder)
    for role, state in states.items():
        bank.add(role, state, config.lora)
    ragged = RaggedDecoder(model, max_bytes=10**9, max_rows=rows, adapters=bank)
    return Batch(ragged, PrefixStore(max_bytes=10**7), end_id=END), model


def answer(
    batch: Batch, model: LlavaUltra, way: str, *, at_once: int, given: argparse.Namespace
) -> None:
    """Answer all reports in one way."""
    generator = torch.Generator().manual_seed(1)
    decoding = Decoding(max_tokens=given.answer, rules=(Without(token=END),))
    rule = AlternateContrast(
        settings=ContrastConfig(strength=0.25), mark=MARK, separator=SEPARATOR, end=END
    )
    keys = block_keys([token.to_bytes(4) for token in BARE], ends=[len(BARE) - 1])
    left, running = given.reports, 0
    while left or running:
        while left and running < at_once:
            ids = torch.randint(20, 300, (given.prompt,), generator=generator)
            with torch.no_grad():
                embeds, bare = model.embed(ids), model.embed(torch.tensor(BARE))
            own = embeds if way.endswith("own prompts") else None
            halves = [Voice(adapter=role, embeds=own) for role in ROLES[1:]]
            uninformed = Voice(adapter=ROLES[0], embeds=bare, keys=keys)
            voices = Voices(members=[*halves, uninformed], contrast=rule)
            batch.begin(
                embeds, decoding, adapter=ROLES[0], voices=None if way == "plain" else voices
            )
            while batch.reading is not None:
                batch.read(given.prompt)
            left, running = left - 1, running + 1
        running -= sum(step.reason is not None for step in batch.step())


if __name__ == "__main__":
    main()
