"""Ten thousand malformed requests: no answer of 5xx but an honest 503, memory flat, still well.

`python bench/serving/fuzz.py`
`python bench/serving/fuzz.py --requests 500 --url http://127.0.0.1:8000 --key-file api.keys`

The requests are those of `bench/serving/malformed.py`, 8 at once, each over its own seed, so that a
request that is met with 5xx can be sent again alone (`--only SEED`). A right question is asked
before, every 500 requests and at the end, and its answer has to stay the same. Memory is what the
replicas and proxies hold after the first tenth of the requests and at the end; it is told only of a
service that this script has started. The exit status is 1 where a request was met with 5xx or none,
the right question was answered otherwise, or memory grew by more than 2 %.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import psutil
from malformed import CHAT, draw_malformed

from sonoray.metrics.tables import Table
from sonoray_serve.http.testing import chat_body, random_study

TIMEOUT_S = 60.0
GROWTH = 0.02
"""Share by which memory may grow between the first tenth and the end."""


def main() -> None:
    """Send them and print how they ended."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0, help="of the first request")
    parser.add_argument("--only", type=int, metavar="SEED", help="send one request and show it")
    parser.add_argument("--url", help="of a running service; else one is started")
    parser.add_argument("--key-file", type=Path)
    args = parser.parse_args()
    key = args.key_file.read_text(encoding="utf-8").split()[0] if args.key_file else ""
    with running(args.url) as url:
        sys.exit(asyncio.run(fuzz(url, key, args)))


@contextmanager
def running(url: str | None) -> Iterator[str]:
    """The service that is named, or one of our own."""
    if url is not None:
        yield url
        return
    from beside_naive import server, shape

    from llava_ultra.testing import tiny_artifact
    from sonoray_jobs.service.listening import free_port

    with tempfile.TemporaryDirectory() as folder:
        model, port = Path(folder) / "model", free_port()
        tiny_artifact(model, config=shape("tiny"))
        me = str(Path(__file__).resolve().with_name("beside_naive.py"))
        with server([me, "--serve", str(model), "--port", str(port)], port) as started:
            yield started


async def fuzz(url: str, key: str, args: argparse.Namespace) -> int:
    """Send the requests, `streams` at once; gives the exit status."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    limits = httpx2.Limits(max_connections=args.streams + 2)
    ended: Counter[tuple[str, str]] = Counter()
    bad: list[str] = []
    memory_mb: list[float] = []
    async with httpx2.AsyncClient(
        base_url=url, headers=headers, timeout=TIMEOUT_S, limits=limits, trust_env=False
    ) as http:
        if args.only is not None:
            print(draw_malformed(random.Random(args.only)))
            ended[await send(http, args.only)] += 1
            print(ended)
            return 0
        answer = await right_answer(http)
        places = asyncio.Semaphore(args.streams)

        async def one(seed: int) -> None:
            async with places:
                kind, how = await send(http, seed)
                ended[kind.partition(":")[0], how] += 1
                if (how.startswith("5") and how != "503") or not how.isdecimal():
                    bad.append(f"seed {seed}, {kind}: {how}")

        began, wrong, part = time.perf_counter(), 0, max(args.requests // 10, 1)
        for start in range(args.seed, args.seed + args.requests, part):
            stop = min(start + part, args.seed + args.requests)
            await asyncio.gather(*map(one, range(start, stop)))
            wrong += await right_answer(http) != answer
            memory_mb.append(resident_mb())
        took_s = time.perf_counter() - began
    kinds = sorted({kind for kind, _ in ended})
    ways = sorted({how for _, how in ended})
    rows = tuple((kind, *(str(ended[kind, how]) for how in ways)) for kind in kinds)
    print("\n".join(Table(header=("kind", *ways), rows=rows).text()))
    print(
        f"{args.requests} requests in {took_s:.0f} s; the right question was answered otherwise "
        f"{wrong} times"
    )
    print("\n".join(bad[:20]))
    growth = memory_mb[-1] / memory_mb[0] - 1 if memory_mb[0] else 0.0
    if memory_mb[0]:
        told = ", ".join(f"{each:.0f}" for each in memory_mb)
        print(f"memory of the service's processes, MB: {told}; growth {growth:.1%}")
    return int(bool(bad) or wrong > 0 or growth > GROWTH)


async def send(http: httpx2.AsyncClient, seed: int) -> tuple[str, str]:
    """Send the request of a seed; gives its kind and its status, or what the client met."""
    request = draw_malformed(random.Random(seed))
    try:
        answer = await http.request(
            request.method, request.path, content=request.content, headers=request.headers
        )
    except (httpx2.LocalProtocolError, httpx2.InvalidURL):
        return request.kind, "0"  # the client itself refused to send it
    except httpx2.HTTPError as error:
        return request.kind, type(error).__name__
    return request.kind, str(answer.status_code)


async def right_answer(http: httpx2.AsyncClient) -> str:
    """What a right question is answered."""
    answer = await http.post(CHAT, json=chat_body(random_study(2, seed=5)))
    answer.raise_for_status()
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


def resident_mb() -> float:
    """Resident size of the replicas and proxies that this process has started."""
    return sum(
        child.memory_info().rss / 1e6
        for child in psutil.Process().children(recursive=True)
        if any(word in " ".join(child.cmdline()) for word in ("ServeReplica", "Proxy", "haproxy"))
    )


if __name__ == "__main__":
    main()
