"""The service over HTTP beside the server that a user would write, on one model, in one run.

`python bench/serving/beside_naive.py`
`python bench/serving/beside_naive.py --decoder smollm2 --requests 16 --tokens 8 24 --rounds 1`

Both servers are up at the same time, each in a process of its own, and are asked in turn: the same
requests about studies of 1 to 4 images that no one has asked about before, streamed and greedy, 16
at once and one at a time. The naive server is FastAPI with one lock around the same exported model
(`bench/serving/naive.py`); ours is `sonoray serve` with its defaults. The model has random weights
at the shape of the preset `tiny`; with `--decoder smollm2` a decoder of SmolLM2-135M's size. Before
anything is timed, the texts of both are compared.

Ratios are formed within a round, medians over the rounds. The overhead is a whole answer of one
token over HTTP, less the same work by the engine's and the vision replica's classes in a process
without Ray: the median of many, one at a time.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import torch
from load import CHAT, QUESTIONS, Served, crowd, draw

from llava_ultra.config import LanguageConfig, ModelConfig
from llava_ultra.testing import tiny_artifact
from sonoray.images.decode import decode_picture, encode_png
from sonoray.metrics.tables import Table
from sonoray.workspace import Workspace
from sonoray_jobs.road.config import load_road
from sonoray_jobs.service.listening import free_port
from sonoray_serve.http.testing import chat_body, random_study
from sonoray_serve.messages import Sampling
from sonoray_serve.replicas.engine import Engine
from sonoray_serve.replicas.loading import ModelSource
from sonoray_serve.replicas.vision import Vision
from sonoray_serve.settings import Batching, ServeConfig

SMOLLM2 = {"hidden_size": 576, "intermediate_size": 1536, "num_layers": 30, "num_heads": 9}
START_TIMEOUT_S = 120.0
NUM_HOPS = 60
"""Answers of one token, for the overhead."""


def main() -> None:
    """Print one table of both servers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--decoder", choices=["tiny", "smollm2"], default="tiny")
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--tokens", type=int, nargs=2, default=(16, 96), metavar=("FROM", "TO"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", metavar="FOLDER", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--config", default="{}", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(Path(args.serve), args.port, ServeConfig.model_validate_json(args.config))
        return
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        tiny_artifact(model, config=shape(args.decoder))
        me = str(Path(__file__).resolve())
        naive = str(Path(me).with_name("naive.py"))
        ports = free_port(), free_port()
        with (
            server([me, "--serve", str(model), "--port", str(ports[0])], ports[0]) as ours,
            server([naive, str(model), str(ports[1])], ports[1]) as theirs,
        ):
            compare(ours, theirs, model, args)


def serve(folder: Path, port: int, config: ServeConfig) -> None:
    """Run the service until this process is ended."""
    from sonoray_jobs.service.serve import serving

    with (
        tempfile.TemporaryDirectory() as workspace,
        serving(
            workspace=Workspace.open(Path(workspace)),
            model=str(folder),
            config=config,
            port=port,
            insecure_local=True,
        ),
    ):
        sys.stdin.read()  # until the bench closes it


@contextmanager
def server(command: list[str], port: int) -> Iterator[str]:
    """A server in a process of its own, once it answers."""
    process = subprocess.Popen([sys.executable, *command], stdin=subprocess.PIPE)
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + START_TIMEOUT_S
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        while True:
            try:
                direct.open(f"{url}/healthz", timeout=2).close()
                break
            except (urllib.error.URLError, OSError):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{command[0]} did not come up") from None
                time.sleep(0.2)
        yield url
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(3 if "naive" in command[0] else 30)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait(30)


def shape(decoder: str) -> ModelConfig:
    """The preset's model, with the larger decoder where it is asked for."""
    config = load_road("tiny").model
    if decoder == "tiny":
        return config
    language = LanguageConfig.model_validate({**config.language.model_dump(), **SMOLLM2})
    return config.model_copy(update={"language": language})


def compare(ours: str, theirs: str, model: Path, args: argparse.Namespace) -> None:
    """Ask both in turn, and print what came of it."""
    tokens = tuple(args.tokens)
    rows: list[tuple[str, ...]] = []
    same = True
    warm = draw(max(4, args.streams // 4), tokens, seed=0)
    for url in (ours, theirs):
        asyncio.run(crowd(url, warm, streams=4))
    for streams, count in ((args.streams, args.requests), (1, max(4, args.requests // 6))):
        pairs: list[tuple[Served, Served]] = []
        for number in range(args.rounds):
            bodies = draw(count, tokens, seed=1 + number + 100 * streams)
            order = (ours, theirs) if number % 2 == 0 else (theirs, ours)
            found = {url: asyncio.run(crowd(url, bodies, streams=streams)) for url in order}
            a, b = found[ours], found[theirs]
            if a.ended != {"200": count} or b.ended != {"200": count}:
                raise SystemExit(f"not all were answered: {dict(a.ended)}, {dict(b.ended)}")
            same = same and a.texts == b.texts
            pairs.append((a, b))
        label = f"{streams} at once"
        add(rows, f"{label}: answers/s, service", [count / a.wall_s for a, _ in pairs])
        add(rows, f"{label}: answers/s, naive", [count / b.wall_s for _, b in pairs])
        add(rows, f"{label}: answers/s over naive", [b.wall_s / a.wall_s for a, b in pairs])
        first = [(statistics.median(a.first_s), statistics.median(b.first_s)) for a, b in pairs]
        add(rows, f"{label}: s to first text, service", [a for a, _ in first])
        add(rows, f"{label}: time to first text over naive", [a / b for a, b in first])
    second = [second_question(ours, number) for number in range(5)]
    add(rows, "second question about a study: first text over the first question's", second)
    rows += overhead(ours, model)
    header = ("what", "median", "smallest", "largest")
    print("\n".join(Table(header=header, rows=tuple(rows)).text()))
    print(f"texts of both are equal: {same}; {torch.get_num_threads()} threads")


def add(rows: list[tuple[str, ...]], what: str, values: list[float]) -> None:
    """Add the median and the range."""
    numbers = (statistics.median(values), min(values), max(values))
    rows.append((what, *(f"{number:.3g}" for number in numbers)))


def second_question(url: str, number: int) -> float:
    """Time to the first text of a second question about a study, over that of the first."""
    images = random_study(4, seed=77_000 + number)
    bodies = [chat_body(images, q, max_tokens=4, stream=True) for q in QUESTIONS[1:3]]
    first, second = (asyncio.run(crowd(url, [body], streams=1)).first_s[0] for body in bodies)
    return second / first


def overhead(url: str, model: Path) -> list[tuple[str, ...]]:
    """What HTTP, Ray Serve and the ways between processes add to one token."""
    images = random_study(1, seed=99)
    body = chat_body(images, QUESTIONS[0], max_tokens=1)
    through, bare = [], []
    content = json.dumps(body).encode()
    with httpx2.Client(base_url=url, trust_env=False, timeout=60) as http:
        for _ in range(NUM_HOPS):
            began = time.perf_counter()
            http.post(CHAT, content=content).raise_for_status()
            through.append(1000 * (time.perf_counter() - began))
    source = ModelSource(model=str(model), digest="", workspace="", device="cpu")
    vision = Vision(source, num_threads=1, weights_check_period_s=1e9, image_bytes=64_000_000)
    engine = Engine(source, Batching())
    data = [encode_png(image) for image in images]
    digest = asyncio.run(engine.ready())

    async def answer() -> None:
        pixels = [decode_picture(each).pixels for each in data]
        study: Any = await vision.encode(pixels, digest)
        sampling = Sampling(
            max_tokens=1, temperature=0, top_p=1, seed=None, stop=(), timeout_s=60, stream=False
        )
        messages = [{"role": "user", "content": QUESTIONS[0]}]
        async for _ in engine.generate(study, messages, sampling):
            pass

    async def answers() -> None:
        for _ in range(NUM_HOPS):
            began = time.perf_counter()
            await answer()
            bare.append(1000 * (time.perf_counter() - began))

    asyncio.run(answers())
    through, bare = sorted(through[5:]), sorted(bare[5:])
    middle, worst = len(through) // 2, int(len(through) * 0.99)
    return [
        ("one token, one client: ms over HTTP, p50", f"{through[middle]:.3g}", "", ""),
        ("one token, one client: ms by the bare classes, p50", f"{bare[middle]:.3g}", "", ""),
        ("overhead, ms, p50", f"{through[middle] - bare[middle]:.3g}", "", ""),
        ("overhead, ms, p99 over p50 of the bare", f"{through[worst] - bare[middle]:.3g}", "", ""),
    ]


if __name__ == "__main__":
    main()
