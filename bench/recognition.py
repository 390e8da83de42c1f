"""Recognition from features: beside asking in words, and a large contrastive batch in parts.

Run: `python bench/recognition.py [--rounds 1] [--studies 32] [--write]`.

One process, one thread, a model of the tiny road's size with random weights and features: neither
speed nor memory depends on what they hold. CPU times are compared within a round, and the median
over rounds is shown.

- `words`: studies of six images; each of 5 or of 15 classes is asked for in words, as the actor of
  an evaluation does: a free answer, and both options ranked. Against it stand the first pass over
  the towers' features, which recognises all classes, and a bank over studies that were read before,
  its texts read anew;
- `batch`: a contrastive step of 1,024 studies in parts (gradient cache) against one of 256 at once:
  time a study, and tensors alive at once against four times those of the 256.
"""

import argparse
import gc
import statistics
import time
from collections.abc import Callable

import torch
from targets import Row, write_rows

from llava_ultra.batch import Batch, TextBatch, VisualBatch, collate_texts
from llava_ultra.config import ModelConfig
from llava_ultra.cost.counting import LiveBytes
from llava_ultra.decoding.class_scores import (
    compare,
    read_classes,
    read_studies,
    score_classes,
)
from llava_ultra.decoding.likelihood import answer_log_likelihoods
from llava_ultra.decoding.step import Decoding, read_prompts
from llava_ultra.decoding.text import generate
from llava_ultra.language.chat import encode_answer
from llava_ultra.language.decoder import Language, build_language_model
from llava_ultra.language.lora import add_lora
from llava_ultra.language.report_pairs import collate_pairs
from llava_ultra.language.tokenizer import train_tokenizer
from llava_ultra.model import LlavaUltra
from llava_ultra.objectives.recognise import RecognitionObjective
from llava_ultra.recognition.bank_file import load_bank
from llava_ultra.steps.accumulate import forward_share
from llava_ultra.steps.micro_batches import PartLimits
from sonoray.phantom import PhantomConfig, plan_study

IMAGES = 6
BANKS = {5: "phantom-zh", 15: "chest-zh"}
"""By number of classes."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--studies", type=int, default=32)
    parser.add_argument("--large", type=int, default=1024)
    parser.add_argument("--part", type=int, default=64)
    parser.add_argument("--only", choices=("words", "batch"))
    parser.add_argument("--write", action="store_true", help="rows of bench/results/targets.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    language, model = build()
    rows = []
    if options.only != "batch":
        for count, bank in BANKS.items():
            found = words(language, model.eval(), bank, options.studies, options.rounds)
            told = f"x, CPU time of {options.studies} studies, median of {options.rounds}"
            for ratio, what in zip(found, ("a first pass over", "kept vectors of"), strict=True):
                name = f"recognize, {what} studies, beside asking each of {count} classes in words"
                rows.append(Row(name=name, wanted=20, better="higher", measured=ratio, unit=told))
    if options.only != "words":
        slower, memory = batches(language, model.train(), options)
        rows.append(
            Row(
                name="contrastive batch of 1,024 in parts: time a study beside 256 at once",
                wanted=1.15,
                better="lower",
                measured=slower,
                unit=f"x, CPU time, median of {options.rounds}",
            )
        )
        rows.append(
            Row(
                name="contrastive batch of 1,024 in parts: peak memory beside 256 at once, scaled",
                wanted=0.2,
                better="lower",
                measured=memory,
                unit="x, tensors alive at once",
            )
        )
    for row in rows:
        print(f"{row.name}: {row.measured:.3f} ({row.unit}; wanted {row.wanted:g})")
    if options.write:
        write_rows(rows, "python bench/recognition.py")


def build() -> tuple[Language, LlavaUltra]:
    """The tiny road's model, to be trained for recognition alone."""
    plans = [plan_study(PhantomConfig(), patient) for patient in range(200)]
    texts = [text for plan in plans for turn in plan.turns for text in (turn.question, turn.answer)]
    config = ModelConfig(objectives=(RecognitionObjective(),))
    tokenizer = train_tokenizer(texts, config.language.vocab_size)
    torch.manual_seed(0)
    base = build_language_model(config.language, tokenizer)
    model = LlavaUltra(config, add_lora(base, config.lora))
    for name, parameter in model.named_parameters():
        parameter.requires_grad = "lora_" in name or not name.startswith("language_model")
    return Language(tokenizer=tokenizer, model=base), model


def features(config: ModelConfig, studies: int, images: int) -> VisualBatch:
    """Random features."""
    generator = torch.Generator().manual_seed(0)
    clip, sam = (
        torch.randn(studies, images, config.num_tokens, channels, generator=generator)
        for channels in (config.clip.num_channels, config.sam_channels)
    )
    return VisualBatch(clip=clip, sam=sam, image_mask=torch.ones(studies, images, dtype=torch.bool))


@torch.no_grad()
def words(
    language: Language, model: LlavaUltra, name: str, studies: int, rounds: int
) -> tuple[float, float]:
    """How many times longer asking in words takes than recognising, at first and once more."""
    bank, visual = load_bank(name), features(model.config, studies, IMAGES)
    keys = [str(number) for number in range(studies)]
    model.fix()

    def ask() -> None:
        tokens = model.fuse(visual.clip, visual.sam)
        scores = model.sampler.feature_scores(tokens, keys)
        rows = [
            (study, f"图像中有无{name}？", "") for study in range(studies) for name in bank.names
        ]
        prompts = collate_texts(language.tokenizer, rows, max_tokens=512).without_answers()
        reading = model.read(tokens, visual.image_mask, prompts, scores)
        context = read_prompts(model, reading.embeds, reading.mask)
        options = [encode_answer(language.tokenizer, option) for option in ("有", "无")]
        numbers = [row for row in range(len(rows)) for _ in options]
        answer_log_likelihoods(model, context, numbers, options * len(rows), max_tokens=16_384)
        generate(model, language.tokenizer, context, Decoding(max_tokens=4))

    classes = read_classes(model, language.tokenizer, bank)

    def recognise() -> None:
        tokens = model.fuse(visual.clip, visual.sam)
        score_classes(model, language.tokenizer, classes, tokens, visual.image_mask, keys)

    tokens = model.fuse(visual.clip, visual.sam)
    kept = read_studies(model, language.tokenizer, tokens, visual.image_mask, keys)

    def again() -> None:
        compare(model, read_classes(model, language.tokenizer, bank), kept)

    ratios: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        asked = cpu_time(ask)
        for own, run in zip(ratios, (recognise, again), strict=True):
            own.append(asked / cpu_time(run))
    return statistics.median(ratios[0]), statistics.median(ratios[1])


def batches(
    language: Language, model: LlavaUltra, options: argparse.Namespace
) -> tuple[float, float]:
    """Time a study and memory of a large batch in parts, beside a quarter of it at once."""
    large = options.large
    small = large // 4
    whole = share(language, model, large)
    quarter = share(language, model, small)

    def step(batch: Batch, limits: PartLimits) -> None:
        model.zero_grad()
        forward_share(model, batch, limits).owed.backward()

    at_once, in_parts = PartLimits(), PartLimits(studies=options.part)
    ratios = []
    for _ in range(options.rounds):
        direct = cpu_time(lambda: step(quarter, at_once)) / small
        cached = cpu_time(lambda: step(whole, in_parts)) / large
        ratios.append(cached / direct)
    cached_bytes = peak(model, lambda: step(whole, in_parts))
    direct_bytes = peak(model, lambda: step(quarter, at_once))
    return statistics.median(ratios), cached_bytes / (direct_bytes * large / small)


def share(language: Language, model: LlavaUltra, studies: int) -> Batch:
    """Studies with a report each, as the phantom words it."""
    plans = [plan_study(PhantomConfig(fraction_without_finding=0), n) for n in range(studies)]
    reports = [f"{number}. {plan.turns[0].answer}" for number, plan in enumerate(plans)]
    settings = model.config.recognition
    assert settings is not None
    question = [(study, "请描述。", "良性") for study in range(studies)]
    text: TextBatch = collate_texts(language.tokenizer, question, max_tokens=512)
    return Batch(
        visual=features(model.config, studies, 2),
        text=text,
        pairs=collate_pairs(language.tokenizer, reports, settings, context_length=512),
    )


def cpu_time(run: Callable[[], None]) -> float:
    """CPU seconds of this process."""
    gc.collect()
    start = time.process_time()
    run()
    return time.process_time() - start


def peak(model: LlavaUltra, run: Callable[[], None]) -> int:
    """Bytes of tensors alive at once, weights left out."""
    gc.collect()
    with LiveBytes(model) as memory:
        run()
    return memory.peak


if __name__ == "__main__":
    main()
