"""Answers decoded together beside answers decoded one at a time, on the same model and requests.

`.venv/bin/python bench/serve_engine.py`
`.venv/bin/python bench/serve_engine.py --decoder smollm2 --requests 16 --rounds 2`

The one way is the engine's (`sonoray_serve.replicas.engine.Engine`), all streams at once. The other
is a server without it: `Assistant.stream` under one lock, a request after the other. Both take the
same encoded studies of 1 to 4 images, the same questions of mixed length and 16 to 96 tokens for
the answer, greedily; before anything is timed, the texts of both are compared. The model has random
weights at the shape of the preset `tiny`, with `--decoder smollm2` a decoder of 576 x 30 layers (as
SmolLM2-135M, with as many key-value heads as heads), so its answers run to their length.

Rounds are interleaved in one process and ratios are formed within a round; the table gives medians.
`wall` is what a client sees; `cpu` is the process's CPU time, for a machine that others use too.
The last rows are of one stream alone, and of a second question about a study: its time to the first
token over that of the first question.
"""

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from llava_ultra.config import LanguageConfig, ModelConfig
from llava_ultra.export.assistant import Assistant, VisualStudy, load_assistant
from llava_ultra.testing import tiny_artifact
from sonoray.metrics.tables import Table
from sonoray_jobs.road.config import load_road
from sonoray_serve.http.testing import random_study
from sonoray_serve.messages import EncodedStudy, Piece, Sampling
from sonoray_serve.replicas.engine import Engine
from sonoray_serve.replicas.loading import ModelSource
from sonoray_serve.settings import Batching

QUESTIONS = ("器官?", "病灶是良性还是恶性?", "请描述超声所见。", "病灶的边缘如何?" * 3)
ANSWER_TOKENS = (16, 96)
SMOLLM2 = {"hidden_size": 576, "intermediate_size": 1536, "num_layers": 30, "num_heads": 9}


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """One request."""

    visual: VisualStudy
    question: str
    max_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """What came of all requests."""

    texts: list[str]
    first_s: list[float]
    """Seconds from the start of each request to its first text."""
    wall_s: float
    cpu_s: float


def main() -> None:
    """Print one table of both ways."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--decoder", choices=["tiny", "smollm2"], default="tiny")
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tiny_artifact(Path(folder) / "model", config=shape(args.decoder))
        compare(Path(folder) / "model", args)


def shape(decoder: str) -> ModelConfig:
    """The preset's model, with the larger decoder where it is asked for."""
    config = load_road("tiny").model
    if decoder == "tiny":
        return config
    language = LanguageConfig.model_validate({**config.language.model_dump(), **SMOLLM2})
    return config.model_copy(update={"language": language})


def compare(folder: Path, args: argparse.Namespace) -> None:
    """Time both ways in turn."""
    assistant = load_assistant(folder)
    source = ModelSource(model=str(folder), digest="", workspace="", device="cpu")
    batching = Batching(max_answers=args.streams, prefix_bytes=0)
    engine = Engine(source, batching)
    digest = asyncio.run(engine.ready())
    asked = draw(assistant, args.requests)

    def together(requests: Sequence[Asked], streams: int) -> Served:
        return asyncio.run(ask_engine(engine, digest, requests, streams))

    def alone(requests: Sequence[Asked], streams: int) -> Served:
        return asyncio.run(ask_in_turn(assistant, requests, streams))

    same = together(asked, args.streams).texts == alone(asked, args.streams).texts
    rows: list[tuple[str, ...]] = []
    for streams, requests in ((args.streams, asked), (1, asked[: max(4, args.requests // 6)])):
        ours, theirs = rounds(args.rounds, together, alone, requests, streams)
        label = f"{streams} at once"
        pairs = list(zip(ours, theirs, strict=True))
        add(rows, f"{label}: answers/s, together", [len(requests) / a.wall_s for a in ours])
        add(rows, f"{label}: answers/s, in turn", [len(requests) / b.wall_s for b in theirs])
        add(rows, f"{label}: answers/s over in turn, wall", [b.wall_s / a.wall_s for a, b in pairs])
        add(rows, f"{label}: answers/s over in turn, cpu", [b.cpu_s / a.cpu_s for a, b in pairs])
        add(
            rows,
            f"{label}: time to first text over in turn",
            [statistics.median(a.first_s) / statistics.median(b.first_s) for a, b in pairs],
        )
    second = [second_question(source, digest, assistant) for _ in range(args.rounds)]
    add(rows, "second question about a study: first text over the first question's", second)
    header = ("what", "median", "smallest", "largest")
    print("\n".join(Table(header=header, rows=tuple(rows)).text()))
    print(f"texts of both ways are equal: {same}; {torch.get_num_threads()} threads")


def add(rows: list[tuple[str, ...]], what: str, values: list[float]) -> None:
    """Add the median and the range."""
    numbers = (statistics.median(values), min(values), max(values))
    rows.append((what, *(f"{number:.3g}" for number in numbers)))


Way = Callable[[Sequence[Asked], int], Served]


def rounds(
    count: int, one: Way, other: Way, requests: Sequence[Asked], streams: int
) -> tuple[list[Served], list[Served]]:
    """Run both in turn, each first in every second round."""
    ones: list[Served] = []
    others: list[Served] = []
    for number in range(count):
        for runs, run in [(ones, one), (others, other)][:: 1 if number % 2 == 0 else -1]:
            runs.append(run(requests, streams))
    return ones, others


def draw(assistant: Assistant, count: int) -> list[Asked]:
    """Requests of mixed length about four studies."""
    rng = random.Random(0)
    studies = [assistant.encode(random_study(images)) for images in (1, 2, 3, 4)]
    return [
        Asked(
            visual=rng.choice(studies),
            question=rng.choice(QUESTIONS),
            max_tokens=rng.randint(*ANSWER_TOKENS),
        )
        for _ in range(count)
    ]


async def ask_engine(
    engine: Engine, digest: str, requests: Sequence[Asked], streams: int
) -> Served:
    """All requests through the engine, `streams` of them at once."""

    async def answer(request: Asked) -> tuple[str, float]:
        study = EncodedStudy(
            tokens=request.visual.tokens.numpy(),
            feature_scores=request.visual.feature_scores.numpy(),
            digest=digest,
        )
        sampling = Sampling(
            max_tokens=request.max_tokens,
            temperature=0.0,
            top_p=1.0,
            seed=None,
            stop=(),
            timeout_s=600.0,
            stream=True,
        )
        messages = [{"role": "user", "content": request.question}]
        began, first_s, text = time.perf_counter(), 0.0, ""
        async for event in engine.generate(study, messages, sampling):
            if isinstance(event, Piece):
                first_s = first_s or time.perf_counter() - began
                text += event.text
        return text, first_s

    return await crowd(answer, requests, streams)


async def ask_in_turn(assistant: Assistant, requests: Sequence[Asked], streams: int) -> Served:
    """All requests, one at a time, as a server with one lock takes them."""
    lock = asyncio.Lock()

    async def answer(request: Asked) -> tuple[str, float]:
        began = time.perf_counter()

        def decode() -> tuple[str, float]:
            messages = [{"role": "user", "content": request.question}]
            prompt = assistant.prepare(request.visual, messages)
            first_s, text = 0.0, ""
            for piece in assistant.stream(prompt, max_tokens=request.max_tokens):
                first_s = first_s or time.perf_counter() - began
                text += piece
            return text, first_s

        async with lock:
            return await asyncio.to_thread(decode)

    return await crowd(answer, requests, streams)


async def crowd(
    answer: Callable[[Asked], Coroutine[None, None, tuple[str, float]]],
    requests: Sequence[Asked],
    streams: int,
) -> Served:
    """Ask `streams` requests at once until all are answered."""
    places = asyncio.Semaphore(streams)

    async def one(request: Asked) -> tuple[str, float]:
        async with places:
            return await answer(request)

    began, began_cpu = time.perf_counter(), time.process_time()
    answers = await asyncio.gather(*(one(request) for request in requests))
    return Served(
        texts=[text for text, _ in answers],
        first_s=[first_s for _, first_s in answers],
        wall_s=time.perf_counter() - began,
        cpu_s=time.process_time() - began_cpu,
    )


def second_question(source: ModelSource, digest: str, assistant: Assistant) -> float:
    """Time to the first text of a second question about a study, over that of the first."""
    engine = Engine(source, Batching())
    visual = assistant.encode(random_study(4))
    warm = Asked(visual=assistant.encode(random_study(1)), question=QUESTIONS[0], max_tokens=4)
    asyncio.run(ask_engine(engine, digest, [warm], 1))
    first, second = (
        asyncio.run(ask_engine(engine, digest, [request], 1)).first_s[0]
        for request in (
            Asked(visual=visual, question=question, max_tokens=4) for question in QUESTIONS[1:3]
        )
    )
    return second / first


if __name__ == "__main__":
    main()
