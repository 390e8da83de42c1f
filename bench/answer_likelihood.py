"""What it costs to rank a question's options: branches of one reading beside rows of their own.

`.venv/bin/python bench/answer_likelihood.py --preset tiny`
`.venv/bin/python bench/answer_likelihood.py --preset base --studies 16 --skip-rows --rounds 1`

`sonoray evaluate` reads a question with its images once and scores each option as a branch of that
reading (`llava_ultra.decoding.likelihood`). The plain way makes a row of every option, in two
groups of like length, and computes logits at every place. Both run here on one decoder with random
weights, at a preset's shape, on prompts of random embeddings: `--questions` of each study, with the
preset's image tokens, 20 to 60 of text and options of 2 to 6 tokens.

Seconds are medians over the rounds, the ratio is formed within a round. Bytes are those of tensors
alive at once, without the weights (`llava_ultra.cost.counting.LiveBytes`), counted in a run of
their own; where the plain way would not fit, `--skip-rows` leaves it out and its logits follow from
their number alone. It runs as `sonoray evaluate` does, in float32, without the generated answer.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaForCausalLM

from llava_ultra.config import ModelConfig, images_kept
from llava_ultra.cost.counting import LiveBytes
from llava_ultra.decoding.likelihood import answer_log_likelihoods, batches_by_tokens
from llava_ultra.decoding.step import read_prompts
from llava_ultra.language.decoder import llama_config
from llava_ultra.language.lora import add_lora
from llava_ultra.model import LlavaUltra
from sonoray.metrics.tables import Table
from sonoray_jobs.road.config import load_road

ROW_GROUPS = 2
TEXT_TOKENS = (20, 60)
OPTION_TOKENS = (2, 6)


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """One question: its prompt's embeddings and the token ids of its options."""

    prompt: Tensor
    """(S, D)."""
    options: list[list[int]]


def main() -> None:
    """Print one table of both ways."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--studies", type=int, default=16)
    parser.add_argument("--questions", type=int, default=9, help="of each study")
    parser.add_argument("--options", type=int, default=3, help="of each question")
    parser.add_argument("--images", type=int, default=9, help="of each study")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--skip-rows", action="store_true", help="count the plain way's logits only"
    )
    given = parser.parse_args()
    road = load_road(given.preset)
    model = build(road.model)
    asked = draw(model, given)
    limit = road.evaluate.batch_tokens
    ways: dict[str, Callable[[], Tensor]] = {
        "branches of one reading": lambda: by_branches(model, asked, limit)
    }
    if not given.skip_rows:
        ways["rows of their own"] = lambda: by_rows(model, asked)
    header = ("way", "seconds", "logits", "largest call", "bytes alive")
    rows: list[tuple[str, ...]] = []
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    found = {}
    for _ in range(given.rounds):
        for way, run in ways.items():
            start = time.perf_counter()
            found[way] = run()
            seconds[way].append(time.perf_counter() - start)
    for way, run in ways.items():
        calls, peak = count(model, run)
        rows.append(
            (
                way,
                f"{statistics.median(seconds[way]):.2f}" if given.rounds else "",
                *(f"{value * 4 / 1e9:.3f} GB" for value in (sum(calls), max(calls))),
                f"{peak / 1e9:.2f} GB",
            )
        )
    if given.skip_rows:
        whole, largest = logits_of_rows(model, asked)
        sizes = (f"{value * 4 / 1e9:.1f} GB" for value in (whole, largest))
        rows.append(("rows of their own (counted)", "", *sizes, ""))
    print("\n".join(Table(header=header, rows=tuple(rows)).text()))
    if given.rounds and not given.skip_rows:
        one, other = found.values()
        ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
        print(
            f"time, branches over rows: {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )
        print(f"largest difference of a log-likelihood: {float((one - other).abs().max()):.1e}")
    print(
        f"{len(asked)} questions, {given.preset}, batches of {limit:,} tokens, "
        f"{sum(p.numel() for p in model.parameters()) * 4 / 1e9:.2f} GB of weights"
    )


def build(config: ModelConfig) -> LlavaUltra:
    """A model of the preset's shape with random weights."""
    torch.manual_seed(0)
    decoder = LlamaForCausalLM(llama_config(config.language, vocab_size=config.language.vocab_size))
    return LlavaUltra(config, add_lora(decoder, config.lora)).eval()


def draw(model: LlavaUltra, given: argparse.Namespace) -> list[Asked]:
    """The questions, from a fixed seed."""
    rng = random.Random(0)
    config = model.config
    num_image_tokens = images_kept(config.sampling, given.images) * config.num_tokens
    asked = []
    for _ in range(given.studies * given.questions):
        length = num_image_tokens + rng.randint(*TEXT_TOKENS)
        options = [
            [rng.randrange(config.language.vocab_size) for _ in range(rng.randint(*OPTION_TOKENS))]
            for _ in range(given.options)
        ]
        prompt = torch.randn(length, config.language.hidden_size) * 0.02
        asked.append(Asked(prompt=prompt, options=options))
    return asked


def by_branches(model: LlavaUltra, asked: list[Asked], limit: int) -> Tensor:
    """Log-likelihoods of all options, question by question, as an evaluation computes them."""
    lengths = [len(each.prompt) + max(map(len, each.options)) for each in asked]
    values: dict[int, Tensor] = {}
    for group in batches_by_tokens(lengths, limit):
        embeds, mask = padded([asked[number].prompt for number in group])
        context = read_prompts(model, embeds, mask)
        flat = [(row, ids) for row, number in enumerate(group) for ids in asked[number].options]
        scores = answer_log_likelihoods(
            model, context, [row for row, _ in flat], [ids for _, ids in flat], max_tokens=limit
        )
        sizes = [len(asked[number].options) for number in group]
        values |= zip(group, scores.split(sizes), strict=True)
    return torch.cat([values[number] for number in range(len(asked))])


@torch.no_grad()
def by_rows(model: LlavaUltra, asked: list[Asked]) -> Tensor:
    """The same from one row an option, with logits at every place."""
    rows = [(each.prompt, ids) for each in asked for ids in each.options]
    lengths = torch.tensor([len(prompt) + len(ids) for prompt, ids in rows])
    values = torch.zeros(len(rows))
    for group in lengths.argsort().chunk(ROW_GROUPS):
        chosen = [rows[number] for number in group.tolist()]
        embeds, mask = padded(
            [torch.cat([prompt, model.embed(torch.tensor(ids))]) for prompt, ids in chosen]
        )
        logits = model.language_model(inputs_embeds=embeds, attention_mask=mask.long()).logits
        labels = torch.full(mask.shape, -100)
        for row, (prompt, ids) in enumerate(chosen):
            labels[row, len(prompt) : len(prompt) + len(ids)] = torch.tensor(ids)
        losses = F.cross_entropy(
            logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="none"
        )
        values[group] = -losses.view(len(chosen), -1).sum(dim=1)
    return values


def padded(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Embeddings (N, S, D), padded on the right, and their mask (N, S)."""
    lengths = torch.tensor([len(row) for row in rows])
    embeds = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return embeds, torch.arange(embeds.shape[1]) < lengths[:, None]


def count(model: LlavaUltra, run: Callable[[], Tensor]) -> tuple[list[int], int]:
    """Logits of each call of the output layer, and the most bytes alive at once."""
    calls: list[int] = []
    head = model.language_model.get_output_embeddings()  # type: ignore[operator]
    handle = head.register_forward_hook(lambda module, args, output: calls.append(output.numel()))
    with LiveBytes(model) as bytes_alive:
        run()
    handle.remove()
    return calls, bytes_alive.peak


def logits_of_rows(model: LlavaUltra, asked: list[Asked]) -> tuple[int, int]:
    """Logits of the plain way, all together and of its largest call."""
    lengths = sorted(len(each.prompt) + len(ids) for each in asked for ids in each.options)
    groups = torch.tensor(lengths).chunk(ROW_GROUPS)
    sizes = [len(group) * int(group.max()) for group in groups]
    vocabulary = model.config.language.vocab_size
    return sum(sizes) * vocabulary, max(sizes) * vocabulary


if __name__ == "__main__":
    main()
