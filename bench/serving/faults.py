"""Faults under load: what clients see, and when the service is well again.

`python bench/serving/faults.py`

The service runs with its defaults in a process of its own, on a model with random weights at the
shape of the preset `tiny`, and is asked by 12 streams at once. In turn: `kill -9` of the engine's,
the vision and the ingress replica, of Serve's proxy and of HAProxy; ten times as many streams as
are let in; clients that leave after their first piece; clients that read slowly. Each row says how
requests ended: `200`, refused with a status and Retry-After (`429`, `503`), an error event in a
stream (`broke off`), or what the client met (`RemoteProtocolError`: the connection was cut). `hung`
counts requests without an end after 150 seconds, beyond the service's own deadline of 120. `well
after` is the time from the fault until 5 requests in a row are answered; memory is the growth of
all replicas' resident size.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psutil
from beside_naive import server, shape
from load import CHAT, Served, ask, draw

from llava_ultra.testing import tiny_artifact
from sonoray.metrics.tables import Table
from sonoray_jobs.service.listening import free_port

STREAMS = 12
HUNG_S = 150.0
TOKENS = (16, 96)
KILLED = {
    "engine": "ServeReplica:sonoray:engine",
    "vision": "ServeReplica:sonoray:vision",
    "ingress": "ServeReplica:sonoray:ingress",
    "proxy": "ProxyActor",
    "HAProxy": "bin/haproxy -db",
}
"""What is killed, and words of its process."""


@dataclass(kw_only=True, slots=True)
class Outcome:
    """What a fault did."""

    served: Served
    num_hung: int = 0
    well_after_s: float = 0.0
    notes: list[str] = field(default_factory=list)


def main() -> None:
    """Print one table of all faults."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="*", help="names of faults")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        tiny_artifact(model, config=shape("tiny"))
        me = str(Path(__file__).resolve().with_name("beside_naive.py"))
        port = free_port()
        with server([me, "--serve", str(model), "--port", str(port)], port) as url:
            asyncio.run(suffer(url, args.only))


async def suffer(url: str, only: Sequence[str] | None) -> None:
    """Run the faults in turn."""
    faults: dict[str, Callable[[str], Awaitable[Outcome]]] = {
        "none": lambda url: under_load(url, None),
        **{f"kill -9 {name}": _killing(name) for name in KILLED},
        "overload": overload,
        "disconnect storm": storm,
        "slow readers": slow_readers,
    }
    rows: list[tuple[str, ...]] = []
    for name, fault in faults.items():
        if only and name not in only:
            continue
        before = memory_mb()
        outcome = await fault(url)
        took = sorted(outcome.served.took_s)
        ended = ", ".join(f"{count} x {how}" for how, count in outcome.served.ended.most_common())
        rows.append(
            (
                name,
                ended,
                str(outcome.num_hung),
                f"{took[int(len(took) * 0.99)]:.1f}" if took else "",
                f"{outcome.well_after_s:.1f}",
                f"{memory_mb() - before:+.0f}",
                "; ".join(outcome.notes),
            )
        )
    header = ("fault", "requests ended", "hung", "p99, s", "well after, s", "memory, MB", "")
    print("\n".join(Table(header=header, rows=tuple(rows)).text()))


def processes(words: str) -> list[psutil.Process]:
    """The processes with these words, among those that this one has started."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if words in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:  # it has just ended
            continue
    return found


def memory_mb() -> float:
    """Resident size of all replicas."""
    return sum(process.memory_info().rss for process in processes("ServeReplica")) / 1e6


def _killing(name: str) -> Callable[[str], Awaitable[Outcome]]:
    return lambda url: under_load(url, name)


async def under_load(url: str, killed: str | None) -> Outcome:
    """Twelve streams, and a replica that is killed among them."""
    bodies = draw(4 * STREAMS, TOKENS, seed=time.time_ns() % 10_000)
    outcome = Outcome(served=Served())
    crowd = asyncio.create_task(crowded(url, bodies, STREAMS, outcome))
    await asyncio.sleep(1.0)
    began = time.perf_counter()
    if killed is not None:
        found = processes(KILLED[killed])
        assert found, f"no process of the {killed}"
        for process in found:
            process.kill()
        outcome.well_after_s = await well_after(url, began)
    await crowd
    return outcome


async def crowded(
    url: str, bodies: Sequence[dict[str, Any]], streams: int, outcome: Outcome
) -> None:
    """Send all requests, `streams` at once, and count those that have no end."""
    places = asyncio.Semaphore(streams)
    limits = httpx2.Limits(max_connections=streams + 8)
    async with httpx2.AsyncClient(
        base_url=url, timeout=HUNG_S, limits=limits, trust_env=False
    ) as http:

        async def one(number: int, body: dict[str, Any]) -> None:
            async with places:
                try:
                    async with asyncio.timeout(HUNG_S):
                        await ask(http, number, json.dumps(body).encode(), outcome.served)
                except TimeoutError:
                    outcome.num_hung += 1

        await asyncio.gather(*(one(number, body) for number, body in enumerate(bodies)))


async def well_after(url: str, began: float) -> float:
    """Seconds until five requests in a row are answered."""
    in_a_row = 0
    while in_a_row < 5 and time.perf_counter() - began < HUNG_S:
        outcome = Outcome(served=Served())
        await crowded(url, draw(1, (4, 4), seed=time.time_ns() % 10_000), 1, outcome)
        in_a_row = in_a_row + 1 if outcome.served.ended["200"] else 0
        if not in_a_row:
            await asyncio.sleep(0.2)
    return time.perf_counter() - began


async def overload(url: str) -> Outcome:
    """Ten times as many streams as the ingress lets in, beside as many as the engine decodes."""
    usual = Outcome(served=Served())
    await crowded(url, draw(48, TOKENS, seed=1), 16, usual)
    outcome = Outcome(served=Served())
    await crowded(url, draw(640, TOKENS, seed=2), 320, outcome)
    outcome.well_after_s = await well_after(url, time.perf_counter())
    p99 = [
        sorted(each.served.took_s)[int(len(each.served.took_s) * 0.99)] for each in (usual, outcome)
    ]
    outcome.notes.append(f"p99 of accepted over that of 16 streams: {p99[1] / p99[0]:.2f}")
    return outcome


async def storm(url: str) -> Outcome:
    """A hundred clients that leave after their first piece; then one that stays."""
    outcome = Outcome(served=Served())
    bodies = draw(100, (900, 1000), seed=3)
    async with httpx2.AsyncClient(base_url=url, timeout=HUNG_S, trust_env=False) as http:

        async def leave(body: dict[str, Any]) -> None:
            async with http.stream("POST", CHAT, json=body) as response:
                outcome.served.ended[f"left at {response.status_code}"] += 1
                if response.status_code == 200:
                    async for line in response.aiter_lines():
                        if '"content": "' in line and '"role"' not in line:
                            return

        for start in range(0, len(bodies), 16):
            await asyncio.gather(*(leave(body) for body in bodies[start : start + 16]))
    outcome.well_after_s = await well_after(url, time.perf_counter())
    return outcome


async def slow_readers(url: str) -> Outcome:
    """Eight clients that take a line a second, beside eight that do not."""
    outcome, alone = Outcome(served=Served()), Outcome(served=Served())
    await crowded(url, draw(24, TOKENS, seed=4), 8, alone)
    stop = asyncio.Event()
    async with httpx2.AsyncClient(base_url=url, timeout=HUNG_S, trust_env=False) as http:

        async def crawl(body: dict[str, Any]) -> None:
            async with http.stream("POST", CHAT, json=body) as response:
                async for _ in response.aiter_lines():
                    if stop.is_set():
                        return
                    await asyncio.sleep(1.0)

        slow = [asyncio.create_task(crawl(body)) for body in draw(8, (60, 90), seed=5)]
        await asyncio.sleep(1.0)
        await crowded(url, draw(24, TOKENS, seed=6), 8, outcome)
        stop.set()
        await asyncio.gather(*slow, return_exceptions=True)
    medians = [statistics.median(each.served.took_s) for each in (alone, outcome)]
    outcome.notes.append(f"median of the others over that without: {medians[1] / medians[0]:.2f}")
    return outcome


if __name__ == "__main__":
    main()
