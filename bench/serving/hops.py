"""What the service adds to the bare engine, and what a second question about a study costs.

`python bench/serving/hops.py`
`python bench/serving/hops.py --decoder smollm2 --studies 8 --seconds 30`

The service runs as `sonoray serve` does, in a process of its own; the bare classes of vision and
engine run in this one, without Ray and HTTP, on the same exported model: random weights at the
shape of the preset `tiny`, towers too. Four tables:

- one token about a study that was asked about before, one client: whole answers over HTTP beside
  the bare classes, in turn; the overhead is the difference of the medians, and p99 less the bare
  median;
- a new study of 4 pictures of 480 x 640 and a second question about it: time to the first text of
  both, and how the first one's divides, as the bare classes take it: decoding the pictures, towers
  and fusion, the prompt;
- half load: whole answers of 8 to 32 tokens that arrive at random, at half of the rate that 16
  clients reach over HTTP; the same arrivals through the bare classes;
- the bytes that the replicas' processes hold.

Nothing else may run on the machine.
"""

import argparse
import asyncio
import base64
import json
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import psutil
from beside_naive import server, shape
from load import CHAT, QUESTIONS, crowd

from llava_ultra.testing import tiny_artifact
from sonoray.images.decode import decode_picture
from sonoray.metrics.tables import Table
from sonoray_jobs.service.listening import free_port
from sonoray_serve.http.testing import chat_body, random_study
from sonoray_serve.messages import EncodedStudy, KnownStudy, Piece, Sampling
from sonoray_serve.replicas.engine import Engine
from sonoray_serve.replicas.loading import ModelSource
from sonoray_serve.replicas.vision import Vision
from sonoray_serve.settings import Batching

PICTURE = (480, 640)
TOKENS = (8, 32)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--decoder", choices=["tiny", "smollm2"], default="tiny")
    parser.add_argument("--answers", type=int, default=200, help="of one token")
    parser.add_argument("--studies", type=int, default=20, help="asked about twice")
    parser.add_argument("--seconds", type=float, default=60.0, help="of half load")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        tiny_artifact(model, config=shape(args.decoder))
        me = str(Path(__file__).resolve().with_name("beside_naive.py"))
        port = free_port()
        with server([me, "--serve", str(model), "--port", str(port)], port) as url:
            asyncio.run(measure(url, Bare(model), args))


@dataclass(kw_only=True, slots=True)
class Timed:
    """When an answer began, in ms from its start, and ended."""

    first_ms: float = 0.0
    whole_ms: float = 0.0
    parts_ms: dict[str, float] = field(default_factory=dict)


class Bare:
    """The classes of vision and engine in this process."""

    def __init__(self, model: Path) -> None:
        source = ModelSource(model=str(model), digest="", workspace="", device="cpu")
        self.vision = Vision(
            source, num_threads=1, weights_check_period_s=1e9, image_bytes=64_000_000
        )
        self.engine = Engine(source, Batching())
        self._names: set[bytes] = set()

    async def ask(self, body: dict[str, Any]) -> Timed:
        """Answer a request as the service does, without its ways."""
        timed, began = Timed(), time.perf_counter()
        digest = await self.engine.ready()
        content = body["messages"][0]["content"]
        urls = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
        name = hash(tuple(urls)).to_bytes(8, signed=True)
        study: EncodedStudy | KnownStudy = KnownStudy(name=name, digest=digest)
        if name not in self._names:
            data = [base64.b64decode(url.partition(",")[2]) for url in urls]
            pixels = [decode_picture(each).pixels for each in data]
            timed.parts_ms["decoding"] = _since(began)
            found = await self.vision.encode(pixels, digest)
            assert isinstance(found, EncodedStudy)
            timed.parts_ms["towers and fusion"] = _since(began) - timed.parts_ms["decoding"]
            study = EncodedStudy(
                tokens=found.tokens,
                feature_scores=found.feature_scores,
                digest=digest,
                name=name,
            )
            self._names.add(name)
        sampling = Sampling(
            max_tokens=body["max_tokens"],
            temperature=0,
            top_p=1,
            seed=None,
            stop=(),
            timeout_s=600,
            stream=bool(body.get("stream")),
        )
        text = "".join(part["text"] for part in content if part["type"] == "text")
        at = time.perf_counter()
        async for event in self.engine.generate(
            study, [{"role": "user", "content": text}], sampling
        ):
            if isinstance(event, Piece) and not timed.first_ms:
                timed.parts_ms["prompt"] = _since(at)
                timed.first_ms = _since(began)
        timed.whole_ms = _since(began)
        return timed


class Through:
    """The service over HTTP."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http

    async def ask(self, body: dict[str, Any]) -> Timed:
        """Answer a request; its encoding is not counted."""
        content = json.dumps(body).encode()
        timed, began = Timed(), time.perf_counter()
        if not body.get("stream"):
            (await self._http.post(CHAT, content=content)).raise_for_status()
            timed.whole_ms = _since(began)
            return timed
        async with self._http.stream("POST", CHAT, content=content) as response:
            response.raise_for_status()
            async for line in response.aiter_lines():
                if timed.first_ms or not line.startswith('data: {"'):
                    continue
                choices = json.loads(line[6:]).get("choices") or [{}]
                if choices[0].get("delta", {}).get("content"):
                    timed.first_ms = _since(began)
        timed.whole_ms = _since(began)
        return timed


Ask = Callable[[dict[str, Any]], Awaitable[Timed]]


async def measure(url: str, bare: Bare, args: argparse.Namespace) -> None:
    """Ask both and print what came of it."""
    limits = httpx2.Limits(max_connections=64, max_keepalive_connections=64)
    async with httpx2.AsyncClient(
        base_url=url, timeout=600, trust_env=False, limits=limits
    ) as http:
        through = Through(http)
        print_table(await one_token(through.ask, bare.ask, args.answers))
        print_table(await second_questions(through.ask, bare.ask, args.studies))
        print_table(await half_load(url, through.ask, bare.ask, args.seconds))
    print_table(memory())


async def one_token(through: Ask, bare: Ask, count: int) -> list[tuple[str, ...]]:
    """Overhead of one answer at a time."""
    body = chat_body(random_study(1, seed=99), QUESTIONS[0], max_tokens=1)
    ours: list[float] = []
    theirs: list[float] = []
    for number in range(count + 10):
        pair = [(ours, through), (theirs, bare)]
        for times, ask in pair if number % 2 else pair[::-1]:
            times.append((await ask(body)).whole_ms)
    ours, theirs = ours[10:], theirs[10:]
    return [
        ("one token, known study, ms", "p50", "p90", "p99"),
        ("over HTTP", *_quantiles(ours)),
        ("bare classes", *_quantiles(theirs)),
        ("overhead", *_overhead(ours, theirs)),
    ]


async def second_questions(through: Ask, bare: Ask, count: int) -> list[tuple[str, ...]]:
    """Time to the first text of new studies and of second questions about them."""
    rng = np.random.default_rng(time.time_ns() % 2**32)
    found: dict[str, list[float]] = {}
    for _ in range(count):
        images = [picture(rng) for _ in range(4)]
        bodies = [chat_body(images, q, max_tokens=4, stream=True) for q in QUESTIONS[1:3]]
        for label, ask in (("service", through), ("bare", bare)):
            first, second = [await ask(body) for body in bodies]
            found.setdefault(f"{label}: first", []).append(first.first_ms)
            found.setdefault(f"{label}: second", []).append(second.first_ms)
            found.setdefault(f"{label}: second over first", []).append(
                second.first_ms / first.first_ms
            )
            for part, took_ms in first.parts_ms.items():
                found.setdefault(f"{label}: first, {part}", []).append(took_ms)
            if "prompt" in second.parts_ms:
                found.setdefault(f"{label}: second, prompt", []).append(second.parts_ms["prompt"])
    rows = [("4 pictures of 480 x 640, ms to first text", "p50", "p90", "p99")]
    return rows + [(label, *_quantiles(values)) for label, values in found.items()]


def picture(rng: np.random.Generator) -> np.ndarray:
    """Smooth grey with speckle: it takes as long to decode as an ultrasound picture."""
    rows, columns = np.mgrid[0 : PICTURE[0], 0 : PICTURE[1]]
    smooth = 90 + 60 * np.sin(rows / (20 + 40 * rng.random())) * np.cos(columns / 50)
    return np.clip(smooth + rng.normal(0, 9, PICTURE), 0, 255).astype(np.uint8)


async def half_load(url: str, through: Ask, bare: Ask, seconds: float) -> list[tuple[str, ...]]:
    """Answers that arrive at random at half the rate that 16 clients reach."""
    rng = random.Random(0)
    studies = [random_study(rng.randint(1, 4), seed=500 + number) for number in range(12)]

    def body() -> dict[str, Any]:
        tokens = rng.randint(*TOKENS)
        return chat_body(rng.choice(studies), rng.choice(QUESTIONS), max_tokens=tokens, stream=True)

    for ask in (through, bare):
        await asyncio.gather(
            *(ask(chat_body(study, QUESTIONS[0], max_tokens=2, stream=True)) for study in studies)
        )
    full = await crowd(url, [body() for _ in range(96)], streams=16)
    rate = 96 / full.wall_s / 2
    gaps = [rng.expovariate(rate) for _ in range(max(16, int(rate * seconds)))]
    bodies = [body() for _ in gaps]
    found = [await arriving(ask, gaps, bodies) for ask in (through, bare)]
    rows = [(f"half load, {rate:.3g} answers/s, {len(gaps)} answers, ms", "p50", "p90", "p99")]
    for what, pick in (("whole", "whole_ms"), ("first text", "first_ms")):
        ours, theirs = ([getattr(each, pick) for each in side] for side in found)
        rows += [
            (f"{what}, over HTTP", *_quantiles(ours)),
            (f"{what}, bare classes", *_quantiles(theirs)),
            (f"{what}, overhead, each percentile's own", *_differences(ours, theirs)),
        ]
    return rows


async def arriving(
    ask: Ask, gaps: Sequence[float], bodies: Sequence[dict[str, Any]]
) -> list[Timed]:
    """Ask at given times, whatever else is under way."""
    tasks = []
    at = time.perf_counter()
    for gap, body in zip(gaps, bodies, strict=True):
        at += gap
        await asyncio.sleep(max(0.0, at - time.perf_counter()))
        tasks.append(asyncio.create_task(ask(body)))
    return await asyncio.gather(*tasks)


def memory() -> list[tuple[str, ...]]:
    """Resident bytes of the replicas that this process has started."""
    rows = [("memory of a process, MB", "resident", "proportional", "")]
    for child in psutil.Process().children(recursive=True):
        words = " ".join(child.cmdline())
        if "ServeReplica" in words or "Proxy" in words or "haproxy" in words:
            full = child.memory_full_info()
            rows.append(
                (words.split()[0][-40:], f"{full.rss / 1e6:.0f}", f"{full.pss / 1e6:.0f}", "")
            )
    return rows


def print_table(rows: list[tuple[str, ...]]) -> None:
    """A table, and an empty line."""
    print("\n".join(Table(header=rows[0], rows=tuple(rows[1:])).text()), end="\n\n", flush=True)


def _since(began: float) -> float:
    return 1000 * (time.perf_counter() - began)


def _quantiles(values: Sequence[float]) -> tuple[str, str, str]:
    cuts = np.quantile(values, (0.5, 0.9, 0.99))
    return f"{cuts[0]:.3g}", f"{cuts[1]:.3g}", f"{cuts[2]:.3g}"


def _overhead(ours: Sequence[float], theirs: Sequence[float]) -> tuple[str, str, str]:
    middle = statistics.median(theirs)
    return _quantiles([each - middle for each in ours])


def _differences(ours: Sequence[float], theirs: Sequence[float]) -> tuple[str, ...]:
    cuts = np.quantile(ours, (0.5, 0.9, 0.99)) - np.quantile(theirs, (0.5, 0.9, 0.99))
    return tuple(f"{each:.3g}" for each in cuts)


if __name__ == "__main__":
    main()
